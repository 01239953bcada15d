"""The rows of images that are certified together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from softadv.certify.certifiers import CertifierSession
from softadv.certify.per_image import Question, certify_chunk

QUESTION = Question(
    weights="", dataset="", data="", split="test", eps=0.01, domain="box", rounding="sound", certifier=""
)


class Shifts(nn.Module):
    """Works in place on its images, drops activations in training mode, and computes in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.last = nn.Dropout(), nn.Linear(4, 3).double()

    def forward(self, x):
        x -= 0.3
        return self.last(self.drop(x.flatten(1)))


def test_images_stay_as_they_are_and_the_predictions_are_those_of_eval_mode():
    torch.manual_seed(0)
    model, x = Shifts(), torch.rand(16, 1, 2, 2)
    before = x.clone()
    with CertifierSession("native") as session:
        rows = certify_chunk(model, x, torch.zeros(16, dtype=torch.int64), question=QUESTION, session=session, first=0)
    assert torch.equal(x, before)
    assert model.training
    with torch.no_grad():
        expected = model.eval()(x.double()).argmax(1).tolist()
    assert [row.predicted for row in rows] == expected


@pytest.mark.parametrize("score", [torch.inf, torch.nan])
def test_an_image_whose_scores_are_no_numbers_is_misclassified_though_its_label_is_first(score):
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(3, 1, 2, 2)
    with torch.no_grad():
        model[1].bias[0] = score
    with CertifierSession("native") as session:
        rows = certify_chunk(model, x, torch.zeros(3, dtype=torch.int64), question=QUESTION, session=session, first=0)
    assert [(row.predicted, row.verdict) for row in rows] == [(0, "misclassified")] * 3
