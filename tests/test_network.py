"""Nothing that softadv runs reaches for a network: no code of its own, and no dependency's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Notes each attempt to reach an address of the internet, or to look one up, by whatever library of the process.
WATCH = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
static void note(const char* what) {
    FILE* file = fopen(getenv("WATCH"), "a");
    if (file) { fprintf(file, "%s\\n", what); fclose(file); }
}
int connect(int fd, const struct sockaddr* to, socklen_t size) {
    int (*real)(int, const struct sockaddr*, socklen_t) = dlsym(RTLD_NEXT, "connect");
    if (to && (to->sa_family == AF_INET || to->sa_family == AF_INET6)) note("connect");
    return real(fd, to, size);
}
ssize_t sendto(int fd, const void* data, size_t bytes, int flags, const struct sockaddr* to, socklen_t size) {
    ssize_t (*real)(int, const void*, size_t, int, const struct sockaddr*, socklen_t) = dlsym(RTLD_NEXT, "sendto");
    if (to && (to->sa_family == AF_INET || to->sa_family == AF_INET6)) note("sendto");
    return real(fd, data, bytes, flags, to, size);
}
int getaddrinfo(const char* name, const char* port, const struct addrinfo* hints, struct addrinfo** found) {
    int (*real)(const char*, const char*, const struct addrinfo*, struct addrinfo**) = dlsym(RTLD_NEXT, "getaddrinfo");
    note("getaddrinfo");
    return real(name, port, hints, found);
}
"""


@pytest.fixture
def watched(tmp_path: Path):
    """Run a command without a network where that is permitted; returns the attempts to reach one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    (tmp_path / "watch.c").write_text(WATCH)
    library = tmp_path / "watch.so"
    subprocess.run([compiler, "-shared", "-fPIC", tmp_path / "watch.c", "-o", library, "-ldl"], check=True)
    alone = ["unshare", "--net"]
    permitted = (
        shutil.which("unshare") and not subprocess.run([*alone, "true"], capture_output=True, check=False).returncode
    )
    for name in ("tmp", "cache"):
        (tmp_path / name).mkdir()

    def run(*arguments: str) -> list[str]:
        environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"} | {
            "LD_PRELOAD": str(library), "WATCH": str(tmp_path / "attempts"), "TMPDIR": str(tmp_path / "tmp"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [*(alone if permitted else []), sys.executable, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr  # 1: an expectation that so short a training does not meet
        attempts = tmp_path / "attempts"
        return attempts.read_text().split() if attempts.exists() else []

    return run


def test_an_attempt_is_seen(watched) -> None:
    ask = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 0.1)\nexcept OSError: pass"
    assert "connect" in watched("-c", ask)


def test_the_smoke_grid_reaches_for_no_network_and_its_libraries_report_nothing(watched, tmp_path) -> None:
    smoke = ["reproduce", "smoke", "--seeds", "1", "--epochs", "1", "--methods", "soft", "--device", "cpu"]
    assert watched("-m", "softadv", *smoke, "--out", "runs") == []
    assert list(tmp_path.glob("runs/*/result.json"))  # it exported the model, and compared it in onnxruntime
    assert (tmp_path / "runs/report/index.html").exists()
    # What onnxruntime keeps events in.
    assert not (tmp_path / "tmp/.ses").exists()
    assert not (tmp_path / "cache/Microsoft").exists()
