"""docker/run.sh: which engine builds and runs the image, how it is called, and what it refuses."""

import gc
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from softadv.cli.app import app
from tests.container.engine import Docker
from tests.shell import run

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def test_an_engine_that_does_not_answer_leaves_no_socket_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    assert "no engine answers" in str(Docker.missing())
    gc.collect()  # where pytest takes an open socket for an error


def test_without_an_engine_one_line_names_the_command_that_needs_none(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "env"):  # all that is needed until an engine is looked for
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    done = run([ROOT / "reproduce.sh", "--docker", "mnist"], env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr == (
        "reproduce.sh: neither docker nor podman answers; the same without a container: ./reproduce.sh mnist\n"
    )


@pytest.fixture
def answers(tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Makes what engines and nvidia-smi answer, and gives the environment in which they do; copies docker/, too.

    An engine that is given by what it says to --version writes down, in "asked", how it is called; others fail.
    """

    def make(versions: dict[str, str], *, gpu: bool = False, security: str = "") -> dict[str, str]:
        tools = tmp_path / "tools"
        tools.mkdir()
        said = {"docker": "exit 1", "podman": "exit 1", "nvidia-smi": "exit 0" if gpu else "exit 1"} | {
            engine: f"""case "$*" in
                --version) echo {shlex.quote(version)} ;;
                info*Security*) echo {shlex.quote(security)} ;;
                *) echo "$@" >>{tmp_path}/asked ;;
            esac"""
            for engine, version in versions.items()
        }
        for tool, does in said.items():
            (tools / tool).write_text(f"#!/bin/sh\n{does}\n")
            (tools / tool).chmod(0o755)
        shutil.copytree(DOCKER, tmp_path / "docker", ignore=shutil.ignore_patterns("__pycache__"))
        own = {name: value for name, value in os.environ.items() if not name.startswith("SOFTADV_")}
        return own | {"PATH": f"{tools}:{os.environ['PATH']}"}

    return make


ALONE = {"docker": "Docker version 27.3.1, build ce12230"}
OF_ROOT = "[name=seccomp,profile=builtin name=cgroupns]"


@pytest.mark.parametrize(
    ("machine", "build", "start"),
    [
        ({"versions": ALONE, "security": OF_ROOT}, "cpu", "--user {user}"),
        ({"versions": ALONE, "security": OF_ROOT, "gpu": True}, "runtime", "--gpus all --user {user}"),
        ({"versions": ALONE, "security": "[name=rootless name=cgroupns]"}, "cpu", "--user 0:0"),
        *(
            (
                {"versions": {name: "podman version 4.9.3"}, "gpu": True},
                "runtime",
                "--device nvidia.com/gpu=all --user {user} --userns keep-id",
            )
            for name in ("podman", "docker")
        ),
    ],
)
def test_the_image_is_built_and_run_by_the_engine_that_answers(
    tmp_path: Path, answers: Callable[..., dict[str, str]], machine: dict[str, Any], build: str, start: str
) -> None:
    data = tmp_path / "my data"
    environment = answers(**machine) | {"SOFTADV_DATA": str(data), "TORCH_INDEX": "x"}
    done = run([tmp_path / "docker" / "run.sh", "mnist", "--seeds", "5"], env=environment)
    assert done.returncode == 0, done.stderr
    *_, built, ran = (tmp_path / "asked").read_text().splitlines()
    assert built.startswith(
        f"build --target {build} --tag softadv:{build} --build-arg COMMIT=unknown --build-arg TORCH_INDEX=x"
    )
    assert built.endswith(str(tmp_path))
    start = start.format(user=f"{os.getuid()}:{os.getgid()}")
    chosen = "--env SOFTADV_GRID= --env SOFTADV_CERTIFIER="
    volumes = f"--volume {data}:/data:z --volume {tmp_path}/runs:/runs:z"
    assert ran == f"run --rm --init {start} {chosen} {volumes} softadv:{build} reproduce mnist --seeds 5"
    assert (tmp_path / "runs").is_dir()


def test_the_container_runs_what_the_environment_asks_for_and_not_what_the_image_would(
    tmp_path: Path, answers: Callable[..., dict[str, str]]
) -> None:
    asked = {"SOFTADV_GRID": "mnist", "SOFTADV_CERTIFIER": "eran-deeppoly"}
    done = run([tmp_path / "docker" / "run.sh"], env=answers(ALONE, gpu=True) | asked)
    assert done.returncode == 0, done.stderr
    assert "--env SOFTADV_GRID=mnist --env SOFTADV_CERTIFIER=eran-deeppoly" in (tmp_path / "asked").read_text()


def test_an_empty_variable_is_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Which run.sh gives where nothing is asked for: each grid's own certifier, and the smoke grid."""
    monkeypatch.chdir(tmp_path)
    found = []
    for value in (None, ""):
        for name in ("SOFTADV_GRID", "SOFTADV_CERTIFIER"):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        context = typer.main.get_command(app).commands["reproduce"].make_context("reproduce", [])  # type: ignore[attr-defined]
        found.append((context.params["grid"], context.params["certifier"]))
    assert found == [("smoke", None)] * 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["mnist", "--data", "DIR"], "--data"),
        (["mnist", "--data=DIR"], "--data=DIR"),
        (["--out", "DIR"], "--out"),
        (["smoke", "--out=DIR"], "--out=DIR"),
        (["smoke", "--expected", "DIR"], "--expected"),
        (["my.toml", "--seeds", "1"], "my.toml"),
        ([], "their.toml"),  # of SOFTADV_GRID
    ],
)
def test_a_path_that_the_container_would_not_have_is_refused(
    tmp_path: Path, answers: Callable[..., dict[str, str]], words: list[str], named: str
) -> None:
    grid = {} if words else {"SOFTADV_GRID": named}
    done = run([tmp_path / "docker" / "run.sh", *words], env=answers(ALONE) | grid)
    assert done.returncode == 2
    assert done.stderr.startswith(f"reproduce.sh: --docker does not take '{named}': ")
    assert "SOFTADV_DATA=DIR" in done.stderr
    assert "./runs" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "asked").exists()
