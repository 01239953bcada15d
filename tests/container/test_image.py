"""The image for a CPU: what a reviewer types works in it, as a user who can write to the volumes and nowhere else."""

import json

from tests.container.engine import Engine, Volumes

# Where every system lets everyone write: temporary files, and locks.
TEMPORARY = ("/tmp", "/var/tmp", "/run/lock", "/dev", "/proc", "/sys")


def test_the_image_says_what_it_is(engine: Engine) -> None:
    config = engine.config()
    assert config["Entrypoint"] == ["softadv"]
    assert config["Cmd"] == ["reproduce"]
    assert config["User"] not in ("", "root", "0")
    assert set(config["Volumes"]) == {"/data", "/runs"}
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["title"] == "softadv, on a CPU"
    assert labels["licenses"] == "MIT"
    assert labels["revision"] == "test"


def test_nothing_of_the_machine_that_built_it_stays(engine: Engine, volumes: Volumes) -> None:
    names = {entry.split("=")[0] for entry in engine.config()["Env"]}
    assert not {name for name in names if name.startswith("PIP") or "proxy" in name.lower() or "CERT" in name}
    listed = engine.run(["sh", "-c", "ls -A /run/secrets /etc/pip.conf; true"], volumes, entrypoint=False)
    assert [line for line in listed.splitlines() if not line.endswith(":")] == []


def test_doctor_finds_all_but_what_this_image_leaves_out(engine: Engine, volumes: Volumes) -> None:
    told = " ".join(engine.run(["doctor"], volumes).split())
    assert "commit test" in told
    assert "compiled for this processor" in told  # the compiler is there, and a place to keep what it makes
    assert "not installed" not in told


def test_the_smoke_grid_runs_without_a_network_and_its_results_are_in_the_volume(
    engine: Engine, volumes: Volumes
) -> None:
    told = engine.run(["reproduce", "smoke", "--seeds", "1", "--epochs", "1"], volumes)
    assert "smoke: 3 trials" in told
    folder = volumes["/runs"] / "smoke"
    results = [json.loads(path.read_text()) for path in folder.rglob("result.json")]
    assert len(results) == 3
    assert (folder / "report" / "index.html").stat().st_size > 10_000
    owners = {path.stat().st_uid for path in folder.rglob("*")}
    assert 0 not in owners
    assert len(owners) == 1


def test_the_user_can_write_to_the_volumes_and_nowhere_else(engine: Engine, volumes: Volumes) -> None:
    pruned = " -o ".join(f"-path {place}" for place in (*TEMPORARY, *volumes))
    found = f"find / \\( {pruned} \\) -prune -o ! -type l -writable -print 2>/dev/null; true"
    assert engine.run(["sh", "-c", found], volumes, entrypoint=False) == ""
    engine.run(["sh", "-c", "id -u; touch /data/mine /runs/mine"], volumes, entrypoint=False)
    assert all((path / "mine").exists() for path in volumes.values())
