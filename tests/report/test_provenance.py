"""What the records do not tell of the code that made them."""

from dataclasses import replace

from softadv.experiments.names import names_of
from softadv.experiments.runs import Run
from softadv.registry import Origin
from softadv.report.provenance import commit_remarks, source_remarks
from tests.finished import a_run


def of_commit(commit: str, *, engine: str = "a processor, 2 threads, softadv 0.1.0, commit 1234567") -> Run:
    run = a_run()
    return Run(
        replace(run.result, environment={"commit": commit}), [replace(epoch, engine=engine) for epoch in run.metrics]
    )


def test_a_commit_that_can_be_checked_out_needs_no_remark() -> None:
    assert commit_remarks([of_commit("1234567890"), of_commit("1234567890")]) == []


def test_uncommitted_changes_are_said_with_their_commit() -> None:
    runs = [of_commit("1234567890"), of_commit("1234567890+changes"), of_commit("abcdefabcd+changes")]
    (remark,) = commit_remarks(runs)
    assert remark.startswith("2 of 3 trials were trained with changes that were not committed")
    assert "(on commit 1234567 in 1, abcdefa in 1)" in remark


def test_an_epoch_that_names_no_commit_is_said() -> None:
    (remark,) = commit_remarks([of_commit("1234567890", engine=""), of_commit("1234567890")])
    assert remark.startswith("1 of 2 trials was recorded when epochs did not yet name their commit")


def test_an_unknown_commit_is_said_once() -> None:
    (remark,) = commit_remarks([of_commit("unknown", engine="")])
    assert remark == "1 of 1 trials was trained by a commit that is not known."


def test_code_of_ones_own_that_changed_between_trials_is_named() -> None:
    def of_code(sha256: str, *, method: str) -> Run:
        run = a_run(method=method)
        names = replace(names_of(run.result.trial), sources={"model": Origin("mine:net", sha256 * 64)})
        return Run(replace(run.result, names=names), run.metrics)

    assert source_remarks([of_code("a", method="soft"), of_code("a", method="adversarial")]) == []
    (remark,) = source_remarks([of_code("a", method="soft"), of_code("b", method="adversarial")])
    assert remark.startswith(
        f"s: the source file of model mine:net changed between its trials (SHA-256 {'a' * 12}, {'b' * 12})"
    )
