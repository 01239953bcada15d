"""ONNX files that are refused."""

from __future__ import annotations

import pytest

import softadv
from softadv.errors import SoftadvError


def refusal(path, **options) -> str:
    with pytest.raises(SoftadvError) as caught:
        softadv.load_model(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message
