"""Engines against the certifier: who verifies what, and who is refuted."""

from __future__ import annotations

import pytest

from softadv.certify import certify
from softadv.errors import SoftadvError
from softadv.experiments.compare_certifiers import compare_engines, parity_tables
from tests.certify.eran.conftest import COUNT, EPS


def test_counts_disagreements_and_margins(question, use, generator):
    """The stand-in's DeepPoly is softadv's, its DeepZono is Box, and its GPUPoly says yes to everything."""
    use()
    model, x, y = question
    seen: list[tuple[str, int]] = []
    found = compare_engines(model, x, y, eps=EPS, generator=generator, on_progress=lambda *what: seen.append(what))
    poly, zono, box = (certify(model, x, y, eps=EPS, domain=domain) for domain in ("deeppoly", "deepzono", "box"))
    by_engine = {comparison.report.engine: comparison for comparison in found.comparisons}
    assert (found.images, found.misclassified, found.missing) == (COUNT, 2, {})
    right = COUNT - 2

    same = by_engine["eran-deeppoly"]
    assert same.domain == "deeppoly"
    assert (same.both, same.neither) == (int(poly.verified.sum()), right - int(poly.verified.sum()))
    assert (same.native_only, same.engine_only, same.disagreements) == (0, 0, ())

    less = by_engine["eran-deepzono"]
    assert less.domain == "deepzono"
    assert less.native_only == int((zono.verified & ~box.verified).sum()) > 0
    assert (less.engine_only, less.both) == (0, int(box.verified.sum()))
    assert [case.index for case in less.disagreements] == (zono.verified & ~box.verified).nonzero().flatten().tolist()
    for case in less.disagreements:
        assert (case.native, case.engine, case.label) == (True, False, int(y[case.index]))
        assert case.native_margin == float(zono.margin[case.index]) > 0
        assert case.engine_margin == pytest.approx(float(box.margin[case.index]), abs=1e-4)

    more = by_engine["gpupoly"]
    assert (more.engine_only, more.neither) == (right - int(poly.verified.sum()), 0)
    assert all(case.engine_margin != case.engine_margin for case in more.disagreements)
    assert {who for who, _ in seen} == {"gpupoly", "eran-deeppoly", "eran-deepzono", "deeppoly", "deepzono"}
    titles = [title for title, _ in parity_tables(found)]
    assert titles[0] == "gpupoly (stand-in 1; as PyTorch) against softadv's deeppoly"


def test_a_verdict_that_an_attack_refutes_is_the_failure(question, use, generator):
    use("--offer", "gpupoly")
    model, x, y = question
    found = compare_engines(model, x, y, eps=0.3, generator=generator)
    assert not found.passed
    assert found.missing.keys() == {"eran-deeppoly", "eran-deepzono"}
    native = certify(model, x, y, eps=0.3)
    for case in found.counterexamples:
        assert case.verified_by == ("gpupoly",)
        assert case.predicted != case.label == int(y[case.index])
        assert native.correct[case.index]
    assert len(found.counterexamples) >= 3
    _, rows = parity_tables(found)[-1]
    assert rows["eran-deepzono was not asked"].endswith("not available (the worker does not know it)")
    first = found.counterexamples[0]
    assert "verified by gpupoly" in rows[f"image {first.index}, label {first.label}"]


def test_engines_that_are_not_there_are_left_out_and_named(question, use, generator):
    use("--fault", "no engine")
    model, x, y = question
    with pytest.raises(SoftadvError, match=r"no engine can be asked .*no libzonoml\.so"):
        compare_engines(model, x, y, eps=EPS, generator=generator)
