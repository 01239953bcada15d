"""Whom a certificate is asked of, and what is recorded of it."""

import pytest
import torch

import softadv
from softadv.certify.certifiers import CertifierSession, certifier_for
from softadv.certify.domains import CERTIFIERS
from softadv.errors import SoftadvError
from softadv.experiments.spec import Trial, load_grid
from softadv.training.partition import partition
from tests.certify.eran.conftest import EPS, question, use  # noqa: F401 (fixtures)


def test_softadv_answers_unless_another_is_named(question):  # noqa: F811
    model, x, y = question
    with CertifierSession("native") as session:
        found, who = session.certify(model, x, y, eps=EPS, domain="deeppoly")
        assert session.provenance(rounding="sound") == who
        assert session.provenance(rounding="none").soundness == "rounding not bounded"
    assert who.certifier == "native"
    assert who.soundness == "any summation order"
    assert torch.equal(found.verified, softadv.certify(model, x, y, eps=EPS).verified)


@pytest.mark.parametrize("engine", ["eran", "eran-deeppoly", "gpupoly"])
def test_an_engine_answers_through_the_same_function(use, question, engine):  # noqa: F811
    model, x, y = question
    use()
    found = softadv.certify(model, x, y, eps=EPS, engine=engine)
    assert torch.equal(found.verified, softadv.certify(model, x, y, eps=EPS).verified)
    split = partition(model, x, y, eps=EPS, engine=engine)
    assert torch.equal(split.verified, found.verified)
    name = "gpupoly" if engine == "gpupoly" else "eran-deeppoly"
    assert split.certifier == f"{name} stand-in 1 (as PyTorch)"


def test_an_engine_is_started_once_for_many_chunks(use, question):  # noqa: F811
    model, x, y = question
    use()
    with CertifierSession("eran-deepzono") as session:
        for part in (slice(0, 4), slice(4, 12)):
            session.certify(model, x[part], y[part], eps=EPS, domain="deepzono", rounding="sound")
    assert len(use.started) == 1


def test_an_engine_that_is_not_there_is_said_so_before_any_work(monkeypatch, question):  # noqa: F811
    monkeypatch.delenv("SOFTADV_ERAN", raising=False)
    model, x, y = question
    with pytest.raises(SoftadvError, match="SOFTADV_ERAN"):
        softadv.certify(model, x, y, eps=EPS, engine="gpupoly")


def test_an_engine_computes_its_own_domain_only():
    assert certifier_for("eran", domain="deepzono") == "eran-deepzono"
    with pytest.raises(SoftadvError, match=r"^domain: native computes box, deepzono, deeppoly, not crown$"):
        certifier_for("native", domain="crown")
    with pytest.raises(SoftadvError, match="gpupoly computes deeppoly, not box"):
        certifier_for("gpupoly", domain="box")
    with pytest.raises(SoftadvError, match="there is no 'eran-box'"):
        certifier_for("eran", domain="box")


@pytest.mark.parametrize("certifier", CERTIFIERS)
def test_a_grid_takes_another_certifier(certifier):
    trials = load_grid("smoke").select(certifier=certifier).trials
    assert {trial.certifier for trial in trials} == {certifier}
    assert all(trial.domain in trial.certified_domains for trial in trials)


def test_a_trial_refuses_a_domain_that_its_certifier_does_not_compute():
    with pytest.raises(SoftadvError, match="certifier: gpupoly does not compute the domain box"):
        Trial(
            setting="a", dataset="digits", method="soft", seed=0, eps=0.1, alpha=0.01, steps=1, epochs=1,
            domain="box", certifier="gpupoly",
        )  # fmt: skip
