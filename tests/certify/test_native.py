"""The compiled kernel: what must not change its answers. tests/test_compiled.py has how it is made."""

import pytest
import torch

from softadv.certify import api, certify, native
from tests.networks import random_images, seeded, with_head

needs_kernel = pytest.mark.skipif(not native.available(), reason="needs a C++ compiler")


def network():
    return seeded(3, lambda: with_head((1, 8, 8), torch.nn.Conv2d(1, 4, 3, 2), torch.nn.ReLU()))


@needs_kernel
def test_the_number_of_threads_changes_nothing():
    model = network().float()
    x, y = random_images((1, 8, 8), 9, seed=1)
    before = torch.get_num_threads()
    try:
        margins = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            margins.append(certify(model, x.float(), y, eps=0.1).margin)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(margins[0], margins[1])
    assert torch.equal(margins[0], margins[2])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: …")], ids=repr)
def test_where_memory_runs_out_the_chunk_is_halved(monkeypatch, engine, error):
    model = network()
    x, y = random_images((1, 8, 8), 13, seed=2)
    expected = certify(model, x, y, eps=0.05)
    answer, sizes = api._Question.answer, []

    def starved(self, images, labels):
        sizes.append(len(images))
        if len(images) > 3:
            raise error
        return answer(self, images, labels)

    monkeypatch.setattr(api._Question, "answer", starved)
    found = certify(model, x, y, eps=0.05)
    assert torch.equal(found.verified, expected.verified)
    torch.testing.assert_close(found.margin, expected.margin, rtol=1e-9, atol=1e-12)
    assert sizes == [13, 7, 4, 2, 2, 2, 2, 2, 2, 1]


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch):
    def broken(self, images, labels):
        raise RuntimeError("something else")

    monkeypatch.setattr(api._Question, "answer", broken)
    x, y = random_images((1, 8, 8), 2, seed=0)
    with pytest.raises(RuntimeError, match="something else"):
        certify(network(), x, y, eps=0.05)


@needs_kernel
def test_disabled_is_undone():
    with native.disabled():
        assert not native.available()
    assert native.available()
