"""What builds and runs an image: Docker by its SDK, or Buildah where no engine answers."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

IMAGE = "localhost/softadv-test:cpu"
BASE = "localhost/softadv-test:base"
ARGUMENTS = ("BASE_IMAGE", "TORCH_INDEX")  # of the Dockerfile, which the environment may give
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
        given = {"COMMIT": "test", **{name: os.environ[name] for name in ARGUMENTS if os.environ.get(name)}}
        arguments = [f"--build-arg={name}={value}" for name, value in given.items()]
        return ["--target=cpu", f"--tag={IMAGE}", *arguments, *said.split()]


class Docker(Engine):
    """By Docker's SDK, on the image's own base, or the one that BASE_IMAGE names.

    Only the build is the docker command's: it takes BuildKit for the build's secrets, and the SDK has none.
    """

    name = "docker"

    @classmethod
    def missing(cls) -> str | None:
        why = None
        with warnings.catch_warnings():
            # Where no engine answers, the SDK leaves its socket to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                with _client() as client:
                    client.ping()
            except ImportError:
                why = "its SDK is not installed (pip install docker)"
            except Exception as error:  # of the SDK, of requests, or of the socket
                why = f"no engine answers ({error})"
            gc.collect()
        if why is not None:
            return why
        return None if shutil.which("docker") else "its command is not installed"

    def build(self, root: Path) -> None:
        # On the machine's own network, where its proxies and indexes are.
        _call(["docker", "build", "--network=host", *self._options(root), str(root)], DOCKER_BUILDKIT="1")

    def config(self) -> dict[str, Any]:
        with _client() as client:
            return client.images.get(IMAGE).attrs["Config"]

    def run(self, command: Sequence[str], volumes: Volumes, *, entrypoint: bool = True) -> str:
        start = {} if entrypoint else {"entrypoint": [command[0]]}
        with _client() as client:
            said = client.containers.run(
                IMAGE,
                list(command if entrypoint else command[1:]),
                network_mode="none",
                volumes={str(path): {"bind": place, "mode": "rw"} for place, path in volumes.items()},
                remove=True,
                **start,
            )
        return said.decode()

    def remove(self) -> None:
        with _client() as client:
            for image in client.images.list(IMAGE):
                client.images.remove(image.id, force=True)


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
        self._buildah("build", "--pull-never", *self._options(root), f"--build-arg=BASE_IMAGE={BASE}", str(root))
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


@contextmanager
def _client() -> Iterator[Any]:
    """Docker's SDK, connected as the environment says. Raises ImportError where it is not installed."""
    from docker import from_env  # not at the top: a machine without it still has Buildah

    client = from_env(timeout=1200)  # seconds: the smoke grid runs in one call
    try:
        yield client
    finally:
        client.close()


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
