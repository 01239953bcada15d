"""The compiled kernel: what must not change its answers. tests/kernels/test_build.py has how it is made."""

import re
from contextlib import nullcontext

import pytest
import torch

from softadv.certify import api, certify
from softadv.certify import backsub_cpp as native
from tests.networks import NETWORKS, random_images, seeded, with_head

needs_kernel = pytest.mark.skipif(not native.available(), reason="needs a C++ compiler")


def network():
    return seeded(3, lambda: with_head((1, 8, 8), torch.nn.Conv2d(1, 4, 3, 2), torch.nn.ReLU()))


def test_the_lengths_of_sums_that_the_proof_counts_on_are_the_kernels():
    header = (native.SOURCE.parent / "forms.h").read_text(encoding="utf-8")
    lengths = dict(re.findall(r"constexpr int (kAddends|kDepth) = (\d+);", header))
    assert lengths == {"kAddends": str(native._ADDENDS), "kDepth": str(native._DEPTH)}


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


@needs_kernel
@pytest.mark.parametrize("fails", [False, True])
def test_pytorch_has_one_thread_meanwhile_and_the_kernel_those_that_pytorch_had(monkeypatch, fails):
    seen = []

    def spy(source, function, program, *more):
        seen.append((torch.get_num_threads(), program.threads))
        if fails:
            raise ZeroDivisionError
        return call(source, function, program, *more)

    call = native.compiled.call_kernel
    monkeypatch.setattr(native.compiled, "call_kernel", spy)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(ZeroDivisionError) if fails else nullcontext():
            certify(network(), *random_images((1, 8, 8), 2, seed=1), eps=0.1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {(1, 3)}


def lack_of_memory() -> RuntimeError:
    """What PyTorch raises on this system where it gets no memory."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize("error", [MemoryError(), lack_of_memory()], ids=lambda error: type(error).__name__)
def test_where_memory_runs_out_the_chunk_is_halved(monkeypatch, engine, error):
    model = network()
    x, y = random_images((1, 8, 8), 13, seed=2)
    expected = certify(model, x, y, eps=0.05)
    evaluate, margin, sizes = api._Settings.evaluate, api._Settings.margin, []

    def starved(call, count):
        sizes.append(count)
        if count > 3:
            raise error
        return call()

    monkeypatch.setattr(
        api._Settings, "evaluate",
        lambda self, x, y, part: starved(lambda: evaluate(self, x, y, part), part.stop - part.start),
    )  # fmt: skip
    monkeypatch.setattr(
        api._Settings, "margin", lambda self, images: starved(lambda: margin(self, images), len(images))
    )
    found = certify(model, x, y, eps=0.05)
    assert torch.equal(found.verified, expected.verified)
    torch.testing.assert_close(found.margin, expected.margin, rtol=1e-9, atol=1e-12)
    assert sizes == [13, 7, 4, *[2] * 12, 1, 1]


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch):
    def broken(self, images):
        raise RuntimeError("something else")

    monkeypatch.setattr(api._Settings, "margin", broken)
    x, y = random_images((1, 8, 8), 2, seed=0)
    with pytest.raises(RuntimeError, match="something else"):
        certify(network(), x, y, eps=0.05)


@needs_kernel
def test_disabled_is_undone():
    with native.disabled():
        assert not native.available()
    assert native.available()


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_leaving_out_what_dead_relus_make_changes_no_bit(monkeypatch, name, dtype):
    shape, build = NETWORKS[name]
    model = seeded(4, build).to(dtype)
    x, y = random_images(shape, 5, seed=4)
    margins = []
    for _ in range(2):
        margins.append([certify(model, x.to(dtype), y, eps=eps).margin for eps in (0.0, 0.02, 0.15)])
        monkeypatch.setattr(native._Program, "_used", lambda *_: None)
    for without, everything in zip(*margins, strict=True):
        assert torch.equal(without, everything)


@needs_kernel
def test_images_that_need_no_proof_do_not_make_chunks_small(monkeypatch, trained_digits, digits):
    x, y = digits.test_x[:96], digits.test_y[:96].clone()
    y[torch.arange(96) % 4 != 0] = 9  # most are misclassified, which nothing needs to prove
    expected = certify(trained_digits, x, y, eps=0.02, margins=False)
    margin, sizes, told = api._Settings.margin, [], []
    monkeypatch.setattr(api._Settings, "margin", lambda self, images: sizes.append(len(images)) or margin(self, images))
    monkeypatch.setattr(api, "_MOST_AT_ONCE", 16)
    found = certify(trained_digits, x, y, eps=0.02, margins=False, on_progress=told.append)
    assert torch.equal(found.correct, expected.correct)
    assert torch.equal(found.verified, expected.verified)
    assert torch.equal(found.margin.isnan(), expected.margin.isnan())
    assert found.verified.any()
    assert all(size == 16 for size in sizes[:-1])
    assert sum(sizes) < 64
    assert told == sorted(set(told))
    assert told[-1] == 96
