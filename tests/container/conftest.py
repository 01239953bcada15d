"""The image for a CPU, built once for all tests here by whatever engine this machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.engine import Buildah, Docker, Engine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine in which the image is built; what it stored is removed in the end."""
    if not request.config.getoption("--container"):
        pytest.skip("building the image takes minutes: ./reproduce.sh test --container")
    wanted = os.environ.get("SOFTADV_ENGINE")  # docker, buildah or none; else whichever is there
    lacks = {kind.name: kind.missing() for kind in (Docker, Buildah)}
    usable = [kind for kind in (Docker, Buildah) if wanted in (None, kind.name) and lacks[kind.name] is None]
    if not usable:
        asked = "" if wanted is None else f"SOFTADV_ENGINE is {wanted}; "
        pytest.skip(
            "no engine to build the image: " + asked + "; ".join(f"{name}: {why}" for name, why in lacks.items())
        )
    # Not pytest's own folder for temporary files, of which it keeps the last three.
    folder = Path(tempfile.mkdtemp(prefix="softadv-container-"))
    engine = usable[0](folder)
    try:
        engine.build(_private_checkout(folder / "checkout"))
        yield engine
    finally:
        engine.remove()
        shutil.rmtree(folder)


def _private_checkout(place: Path) -> Path:
    """A copy of all that a build takes, which nobody but its owner can read, as git makes it under umask 077."""
    place.mkdir()
    named = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    for name in ("Dockerfile", ".dockerignore", *named):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, place / name)
    subprocess.run(["chmod", "-R", "go=", place], check=True)
    return place


@pytest.fixture(scope="session")
def volumes() -> Iterator[dict[str, Path]]:
    """Folders for the image's volumes, which any user may write."""
    with tempfile.TemporaryDirectory(prefix="softadv-volumes-") as folder:
        Path(folder).chmod(0o755)
        found = {name: Path(folder) / name for name in ("data", "runs")}
        for path in found.values():
            path.mkdir()
            path.chmod(0o1777)
        yield {f"/{name}": path for name, path in found.items()}
