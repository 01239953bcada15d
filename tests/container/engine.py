"""What builds and runs an image: Docker, or Buildah where there is no engine to ask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

IMAGE = "localhost/softadv-test:cpu"
BASE = "localhost/softadv-test:base"
Volumes = Mapping[str, Path]

# The image has about 7 GB, and is copied whole: in the container that builds, as the image, in the one that runs.
_BYTES = 30 * 2**30


class Engine(ABC):
    """Holds one image, softadv's for a CPU."""

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Why this engine cannot be used here, or None."""

    @abstractmethod
    def build(self, root: Path) -> None:
        """Build the image of the checkout."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The image's configuration, as the OCI names its keys."""

    @abstractmethod
    def run(self, command: Sequence[str], volumes: Volumes, *, entrypoint: bool = True) -> str:
        """Run a command as the image's user, without a network, after its entrypoint; what it prints."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the image and all that came with it."""

    def _options(self, root: Path) -> list[str]:
        """Options of a build: the target, and what this machine has set for package indexes and authorities."""
        said = _call([str(root / "docker" / "secrets.sh"), str(self._folder / "secrets")])
        index = os.environ.get("TORCH_INDEX", "")
        arguments = ["--build-arg=COMMIT=test", f"--build-arg=TORCH_INDEX={index}"]
        return ["--target=cpu", f"--tag={IMAGE}", *arguments, *said.split()]


class Docker(Engine):
    """The image's own base, from its registry."""

    name = "docker"

    @classmethod
    def missing(cls) -> str | None:
        return None if _answers("docker", "info") else "docker does not answer"

    def build(self, root: Path) -> None:
        _call(["docker", "build", *self._options(root), str(root)], DOCKER_BUILDKIT="1")

    def config(self) -> dict[str, Any]:
        return json.loads(_call(["docker", "image", "inspect", IMAGE]))[0]["Config"]

    def run(self, command: Sequence[str], volumes: Volumes, *, entrypoint: bool = True) -> str:
        mounts = [f"--volume={path}:{place}" for place, path in volumes.items()]
        start = [] if entrypoint else [f"--entrypoint={command[0]}"]
        words = command if entrypoint else command[1:]
        return _call(["docker", "run", "--rm", "--network=none", *mounts, *start, IMAGE, *words])

    def remove(self) -> None:
        subprocess.run(["docker", "image", "rm", "--force", IMAGE], capture_output=True, check=False)


class Buildah(Engine):
    """Without a daemon, in a storage of its own, on a base that debootstrap makes from this machine's APT mirror."""

    name = "buildah"

    @classmethod
    def missing(cls) -> str | None:
        lacking = [tool for tool in ("buildah", "debootstrap", "unshare") if shutil.which(tool) is None]
        if lacking:
            return f"{' and '.join(lacking)} not installed"
        if os.geteuid() != 0:
            return "needs root"
        if not _answers("unshare", "--net", "true"):
            return "this machine lets nobody make a network of its own"
        if _mirror() is None:
            return "APT names no mirror of this machine's release"
        place = tempfile.gettempdir()
        free = shutil.disk_usage(place).free
        return None if free > _BYTES else f"needs {_BYTES >> 30} GiB in {place}, where {free >> 30} are free"

    def build(self, root: Path) -> None:
        self._make_base()
        self._buildah("build", "--pull-never", f"--build-arg=BASE_IMAGE={BASE}", *self._options(root), str(root))
        # One container for all runs: another would be one more copy of everything.
        self._container = self._buildah("from", "--pull-never", IMAGE).strip()
        # Buildah 1.28 mounts volumes of its own over those that `run` is given, where all of them are given.
        volumes = [f"--volume={place}-" for place in self.config()["Volumes"]]
        self._buildah("config", *volumes, self._container)

    def config(self) -> dict[str, Any]:
        return json.loads(self._buildah("inspect", "--type=image", IMAGE))["OCIv1"]["config"]

    def run(self, command: Sequence[str], volumes: Volumes, *, entrypoint: bool = True) -> str:
        mounts = [f"--volume={path}:{place}" for place, path in volumes.items()]
        start = self.config()["Entrypoint"] if entrypoint else []
        # This isolation leaves a container the machine's network, so the whole of Buildah gets none.
        words = ["run", *mounts, self._container, "--", *start, *command]
        return _call(["unshare", "--net", *self._command(), *words], **self._environment())

    def remove(self) -> None:
        for what in (["rm", "--all"], ["rmi", "--all", "--force"]):
            subprocess.run([*self._command(), *what], capture_output=True, check=False)

    def _make_base(self) -> None:
        suite, mirror = _mirror() or ("", "")
        container = self._buildah("from", "scratch").strip()
        folder = self._buildah("mount", container).strip()
        _call(["debootstrap", "--variant=minbase", "--include=ca-certificates", suite, folder, mirror])
        shutil.rmtree(Path(folder) / "var/cache/apt/archives")
        self._buildah("unmount", container)
        self._buildah("commit", "--rm", container, BASE)

    def _command(self) -> list[str]:
        store = self._folder / "storage"
        return ["buildah", f"--root={store}", f"--runroot={store}-run", "--storage-driver=vfs"]

    def _environment(self) -> dict[str, str]:
        # Big files go through TMPDIR, which must not be a small one in memory.
        return {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self._folder)}

    def _buildah(self, *words: str) -> str:
        return _call([*self._command(), *words], **self._environment())


def _mirror() -> tuple[str, str] | None:
    """This machine's release, and the mirror that APT takes it from."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    suite = release.get("VERSION_CODENAME", "").strip('"')
    if not suite or shutil.which("apt-get") is None:
        return None
    said = _call(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"])
    found = (line.split() for line in said.splitlines())
    return next(((suite, words[2]) for words in found if words[:2] == [suite, "main"]), None)


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _call(command: Sequence[str], **environment: str) -> str:
    """Standard output of a command, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
