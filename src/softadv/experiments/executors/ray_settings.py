"""Ray's own settings while it starts or is joined, and what it keeps of them afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

LOCAL = "local"
_START_SECONDS, _ASK_SECONDS = 300, 0.2
_GONE_SECONDS = 10.0  # how long a killed process may take to be gone
# Ray reads these variables before it starts: they switch off usage reports.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
# By this Ray stays on the loopback address, as it does by itself on Windows and macOS. Given 127.0.0.1 as its node's
# address, it takes one that others can reach, and listens to all.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# How long Ray waits for its own processes to start, before it gives up: 30 seconds if nothing is said.
_PATIENT = {
    "RAY_gcs_server_port_wait_time_s": f"{_START_SECONDS}",
    "RAY_raylet_start_wait_time_s": f"{_START_SECONDS}",
    "RAY_agent_register_timeout_ms": f"{1000 * _START_SECONDS}",
}
# Where nothing else is said, Ray asks a token of whoever joins one that is started here. Left to itself, it writes it
# into the home folder, and a cluster started there by hand later asks for it, too.
_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def ray_settings(ray: Any, address: str) -> Iterator[None]:
    """Within the block Ray starts as softadv wants it; afterwards the settings and SIGTERM are as they were."""
    before = {name: os.environ.get(name) for name in (*_QUIET, *_AUTHENTICATION, *_LOOPBACK)}
    os.environ.update(_QUIET | (_LOOPBACK if address == LOCAL else {}))
    constants = ray._private.ray_constants
    clusters = constants.ENABLE_RAY_CLUSTER  # read from _LOOPBACK's variable when Ray was imported
    constants.ENABLE_RAY_CLUSTER = clusters and address != LOCAL
    if address == LOCAL and not any(map(os.environ.get, _AUTHENTICATION)):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with patience(ray) if address == LOCAL else nullcontext():
            yield
    finally:
        if terminate is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, terminate)  # Ray's own handler aborts the process
        constants.ENABLE_RAY_CLUSTER = clusters
        _set_back(before)


@contextmanager
def patience(ray: Any) -> Iterator[None]:
    """Within the block a node has minutes to start: Ray gives it 30 seconds, which a busy machine may exceed."""
    before = {name: os.environ.get(name) for name in _PATIENT}
    os.environ.update(_PATIENT | {name: value for name, value in before.items() if value is not None})
    services = ray._private.services
    get_node = services.get_node

    def patient(*arguments: Any) -> Any:
        until = time.monotonic() + _START_SECONDS
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > until:
                    raise
                time.sleep(_ASK_SECONDS)

    services.get_node = patient
    try:
        yield
    finally:
        services.get_node = get_node
        _set_back(before)


def _set_back(before: Mapping[str, str | None]) -> None:
    """Give variables the values that they had; None: unset."""
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def processes_of_ones_own(ray: Any) -> list[Any]:
    """The processes of the Ray that was started here, and those that they have started, as psutil knows them."""
    import psutil  # noqa: PLC0415 (which comes with Ray)

    node = ray._private.worker._global_node
    begun = [] if node is None else [each.process.pid for some in node.all_processes.values() for each in some]
    found = []
    for process in begun:
        with suppress(psutil.Error):  # it has ended
            found += [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    return found


def end_rest(processes: list[Any]) -> None:
    """Kill those that have outlived their Ray, and wait until they are gone.

    One that is just starting would make Ray's folder of temporary files again after that has been deleted.
    """
    import psutil  # noqa: PLC0415 (which comes with Ray)

    for process in processes:
        with suppress(psutil.Error):  # it has ended
            process.kill()
    psutil.wait_procs(processes, timeout=_GONE_SECONDS)


def forget_token(ray: Any) -> None:
    """Have Ray read the environment again: until then it shows its first token to every cluster, and is refused."""
    loader = getattr(ray._raylet, "AuthenticationTokenLoader", None)
    if loader is not None:  # older ones know of no tokens
        # First whether a token is asked for: a thread of Ray's that is still ending aborts where it finds none.
        ray._raylet.Config.initialize("")
        loader.instance().reset_cache()
