"""The run folder: whole files or none, damage is noticed, and nobody else's files are touched."""

import os
from dataclasses import replace

import pytest
import torch

from softadv._io import read_json, read_tensors, tensors_sha256, write_json, write_tensors
from softadv.certify.records import Certified, Parity
from softadv.errors import SoftadvError
from softadv.experiments import run_folder
from softadv.experiments.records import Result, read_result
from softadv.experiments.run_folder import RunFolder, grid_runs
from softadv.experiments.spec import Trial
from softadv.training.records import EpochMetrics
from tests.refusals import refusal

TRIAL = Trial(setting="a", dataset="digits", method="soft", seed=0, eps=0.1, alpha=0.01, steps=20, epochs=2)
RESULT = Result(
    trial=TRIAL,
    natural_accuracy=0.9,
    adversarial_accuracy=0.5,
    certified=(
        Certified(domain="deeppoly", images=10, verified=4, seconds=1.5),
        Certified(domain="box", images=10, verified=0, seconds=0.5),
    ),
    parity=Parity(images=10, largest_difference=1e-6, classes_equal=True),
    neurons=3614,
    train_images=100,
    test_images=10,
    data_fingerprint="abc",
    data_source="scikit-learn",
    weights_sha256="def",
    environment={"torch": "2"},
)

METRICS = [
    EpochMetrics(
        epoch=epoch,
        loss=1 / epoch,
        natural_accuracy=0.9,
        adversarial_accuracy=0.5,
        misclassified=None,
        unverified=3,
        verified=4,
        attack_seconds=0.1,
        certification_seconds=0.2,
        update_seconds=0.3,
        evaluation_seconds=0.4,
    )
    for epoch in (1, 2)
]
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True, False]), "c": torch.tensor(7)}
METADATA = {"epoch": "3"}


@pytest.fixture
def run(tmp_path):
    """A folder in which the trial has begun."""
    folder = RunFolder(tmp_path / "grid" / TRIAL.name)
    folder.begin(TRIAL)
    return folder


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch, step):
    def fail(*_arguments):
        raise OSError(28, "No space left on device")

    path = tmp_path / "metrics.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(os, step, fail)
    message = refusal(write_json, path, {"new": 2})
    assert message == f"{path}: cannot be written (No space left on device)"
    assert read_json(path) == {"old": 1}


def test_a_write_that_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    path = tmp_path / "weights.safetensors"
    write_tensors(path, TENSORS)
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(path, {"a": torch.zeros(1)})
    assert torch.equal(read_tensors(path)[0]["a"], TENSORS["a"])


def test_a_write_leaves_one_file(tmp_path):
    for count in (1, 2):
        write_json(tmp_path / "result.json", {"count": count})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_tensors_come_back_as_they_were(tmp_path):
    path = tmp_path / "weights.safetensors"
    transposed = TENSORS | {"a": TENSORS["a"].T}
    write_tensors(path, transposed, metadata=METADATA)
    tensors, metadata = read_tensors(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], transposed[name]) for name in tensors)
    assert all(tensors[name].dtype == TENSORS[name].dtype for name in tensors)
    assert metadata["epoch"] == "3"


def test_tensors_that_were_cut_off_are_noticed(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, TENSORS, metadata=METADATA)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert str(path) in refusal(read_tensors, path)


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    write_tensors(path, TENSORS, metadata=METADATA)
    whole = path.read_bytes()
    missed = []
    for at in range(len(whole)):
        for bit in (0, 4):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            try:
                tensors, metadata = read_tensors(path)
            except SoftadvError:
                continue
            if tensors_sha256(tensors) != tensors_sha256(TENSORS) or metadata.get("epoch") != "3":
                missed.append((at, bit))
    assert missed == []


def test_tensors_that_are_not_there_are_named(tmp_path):
    assert "nothing.safetensors" in refusal(read_tensors, tmp_path / "nothing.safetensors")


def test_the_digest_of_tensors_depends_on_names_shapes_types_and_bits_alone():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([0.0])
    digest = tensors_sha256({"a": a, "b": b})
    assert tensors_sha256({"b": b, "a": a}) == digest
    others = [
        {"a": a, "c": b},
        {"a": a[None], "b": b},
        {"a": a.double(), "b": b},
        {"a": a, "b": -b},
        {"a": b, "b": a},
        {"a": a},
    ]
    assert len({digest, *map(tensors_sha256, others)}) == len(others) + 1


def test_a_result_comes_back_as_it_was(run):
    assert run.result() is None
    run.write_result(RESULT)
    assert run.result() == RESULT
    assert run.result().certified_by("deeppoly").accuracy == 0.4
    assert run.result().certified_by("deepzono") is None


def test_metrics_come_back_as_they_were(run):
    assert run.metrics() == []
    run.write_metrics(METRICS)
    assert run.metrics() == METRICS


def test_the_spec_comes_back_as_it_was(run):
    assert run.trial() == TRIAL


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"trial": {}}', '{"trial": 3}', "\x00"])
def test_a_result_that_is_none_is_named(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content)
    assert str(path) in refusal(read_result, path)


@pytest.mark.parametrize("content", ["{", "{}", '{"epochs": 3}', '{"epochs": [{}]}', '{"epochs": [{"epoch": 1}]}'])
def test_metrics_that_are_none_are_named(run, content):
    path = run.path / "metrics.json"
    path.write_text(content)
    assert str(path) in refusal(run.metrics)


@pytest.mark.parametrize(("key", "value"), [("eps", 0.2), ("domain", "box"), ("train_images", 5)])
def test_a_folder_of_another_trial_is_refused_by_the_key_that_differs(run, key, value):
    message = refusal(run.begin, replace(TRIAL, **{key: value}))
    assert str(run.path) in message
    assert f"{key} = {getattr(TRIAL, key)!r}, not {value!r}" in message
    assert run.trial() == TRIAL


def test_the_same_trial_goes_on_where_it_was(run):
    run.write_metrics(METRICS)
    (run.path / run_folder.TRACEBACK).write_text("it failed")
    run.begin(TRIAL)
    assert run.metrics() == METRICS
    assert not (run.path / run_folder.TRACEBACK).exists()


def test_a_run_is_deleted_but_for_its_spec(run):
    run.write_metrics(METRICS)
    assert run.renew(TRIAL) == []
    assert [path.name for path in run.path.iterdir()] == ["spec.json"]
    assert RunFolder(run.path / "nothing").renew(TRIAL) == []


@pytest.mark.parametrize("spec", [None, '{"openapi": "3.1.0"}', "[]", "not JSON"])
def test_a_folder_that_is_no_run_is_not_deleted(tmp_path, spec):
    (tmp_path / "metrics.json").write_text("somebody's own")
    if spec is not None:
        (tmp_path / "spec.json").write_text(spec)
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    assert str(tmp_path) in refusal(RunFolder(tmp_path).renew, TRIAL)
    assert str(tmp_path / "metrics.json") in refusal(RunFolder(tmp_path / "metrics.json").renew, TRIAL)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_deleting_a_run_leaves_what_softadv_did_not_write_and_follows_no_link(run, tmp_path):
    elsewhere = tmp_path / "elsewhere.safetensors"
    elsewhere.write_text("somebody's weights")
    (run.path / "weights.safetensors").symlink_to(elsewhere)
    (run.path / "notes.txt").write_text("mine")
    (run.path / "figures").mkdir()
    assert run.renew(TRIAL) == [run.path / "figures", run.path / "notes.txt"]
    assert sorted(path.name for path in run.path.iterdir()) == ["figures", "notes.txt", "spec.json"]
    assert elsewhere.read_text() == "somebody's weights"


@pytest.mark.parametrize("below", ["", "runs/a"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, below):
    file = tmp_path / "file"
    file.write_text("a regular file")
    assert str(file) in refusal(RunFolder(file / below).begin, TRIAL)
    assert file.read_text() == "a regular file"


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "result.json"
    assert str(path) in refusal(write_json, path, {})


def test_a_grid_has_its_finished_results_by_name(tmp_path):
    for seed in (1, 0, 2):
        trial = replace(TRIAL, seed=seed)
        run = RunFolder(tmp_path / trial.name)
        run.begin(trial)
        if seed != 2:
            run.write_result(replace(RESULT, trial=trial))
    assert [run.trial().seed for run in grid_runs(tmp_path)] == [0, 1, 2]
    finished = [run.trial().seed for run in grid_runs(tmp_path) if run.result() is not None]
    assert finished == [0, 1]


def test_a_folder_without_runs_is_named(tmp_path):
    assert str(tmp_path) in refusal(grid_runs, tmp_path)


def test_tensors_that_share_their_memory_come_back_as_they_were(tmp_path):
    """Such as the weights of two layers that are tied, which safetensors refuses."""
    path, memory = tmp_path / "weights.safetensors", torch.arange(6.0)
    tied = {"whole": memory, "same": memory, "part": memory[2:4], "none": memory[:0]}
    write_tensors(path, tied)
    tensors, _ = read_tensors(path)
    assert tensors.keys() == tied.keys()
    assert all(torch.equal(tensors[name], tied[name]) for name in tensors)
