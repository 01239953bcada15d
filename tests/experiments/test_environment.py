"""What a run records of the machine, and the choice of a device."""

import pytest
import torch

from softadv._versions import package_version
from softadv.errors import SoftadvError
from softadv.experiments import environment


def test_a_result_can_say_where_it_came_from() -> None:
    about = environment.describe(torch.device("cpu"))
    assert about["torch"] == torch.__version__.split("+", maxsplit=1)[0]
    assert about["torchattacks"] != "not installed"
    assert about["device"].endswith("cores")
    assert all(isinstance(value, str) and value for value in about.values())


def test_a_missing_package_is_said_to_be_missing() -> None:
    assert package_version("no-such-package") == "not installed"


def test_auto_is_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment.pick_device("auto") == torch.device("cpu")
    with pytest.raises(SoftadvError, match="PyTorch sees no GPU"):
        environment.pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert environment.pick_device("auto") == torch.device("cuda")


def test_the_commit_is_the_one_that_was_there_when_it_was_first_asked_for(monkeypatch):
    answers = iter(["first", "", "second", ""])
    monkeypatch.setattr(environment, "_git", lambda root, *arguments: next(answers))
    monkeypatch.setattr(environment.Path, "exists", lambda path: True)
    environment.commit.cache_clear()
    try:
        assert [environment.commit(), environment.commit()] == ["first", "first"]
    finally:
        environment.commit.cache_clear()
