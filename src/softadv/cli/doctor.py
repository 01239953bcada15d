"""What this machine has for softadv, and advice for what it lacks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from softadv._versions import package_version
from softadv.certify import eran
from softadv.certify.linear_cpp import SOURCE as CERTIFIER
from softadv.data import check_files, find_dataset, search_places
from softadv.errors import SoftadvError
from softadv.experiments import environment
from softadv.kernels import build as compiled
from softadv.kernels import pgd as compiled_attack
from softadv.kernels import weight_gradients as compiled_update

_SLOWER = "the CPU runs everything"
_OTHER_FOLDER = "name another folder, or see whose it is (in a container: --user, and :Z on the mount for SELinux)"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's: what was looked at, what was found, and advice where something lacks."""

    subject: str
    found: str
    advice: str | None = None
    failed: bool = False  # what was asked for by name is not there


def examine(data_root: Path | None) -> list[Check]:
    """Look at everything that softadv can make use of; a line for each kind of thing."""
    return [
        Check("softadv", f"{package_version('softadv')}, commit {environment.commit()}"),
        Check("Python", environment.python_version()),
        _together("packages", [_package(name) for name in environment.PACKAGES]),
        _processor(),
        _together("kernels", [
            _kernel("certifier", CERTIFIER, "about 8 times"),
            _kernel("attack", compiled_attack.SOURCE, "about 3 times"),
            _kernel("update", compiled_update.SOURCE, "about twice"),
        ]),
        _gpu(),
        *_data_folder(data_root),
        _together("data sets", [
            Check("digits", "bundled with scikit-learn"),
            *(_dataset(name, data_root) for name in ("mnist", "cifar10")),
        ]),
        _eran(),
    ]  # fmt: skip


def _together(subject: str, findings: Sequence[Check]) -> Check:
    """Several findings in one line: what is found of several alike is said once, and so is each piece of advice."""
    alike: dict[tuple[str, str | None], list[str]] = {}
    for finding in findings:
        alike.setdefault((finding.found, finding.advice), []).append(finding.subject)
    told = (f"{', '.join(subjects)} {found}" for (found, _), subjects in alike.items())
    advice = dict.fromkeys(finding.advice for finding in findings if finding.advice)
    return Check(subject, "; ".join(told), "; ".join(advice) or None, any(finding.failed for finding in findings))


def _package(name: str) -> Check:
    version = package_version(name)
    missing = version == "not installed"
    return Check(name, version, "set up again with ./reproduce.sh, or pip install . in its folder" if missing else None)


def _processor() -> Check:
    threads = torch.get_num_threads()
    return Check(
        "processor", f"{environment.device_name(torch.device('cpu'))}, {threads} thread{'s' * (threads != 1)} in use"
    )


def _kernel(subject: str, source: Path, faster: str) -> Check:
    kernel = compiled.load(source)
    if isinstance(kernel, str):
        return Check(subject, f"plain PyTorch, since {kernel}", f"on a CPU, the compiled one is {faster} as fast")
    if kernel.folder is None:
        return Check(
            subject,
            f"compiled for this processor, for this process alone: {kernel.why}",
            "every start compiles it anew; name a folder of your own with XDG_CACHE_HOME, for it to be kept in",
        )
    return Check(subject, "compiled for this processor")


def _gpu() -> Check:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("GPU", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    if torch.version.cuda is None:
        return Check("GPU", f"none in use; {_SLOWER}", "this PyTorch is built without CUDA: install one with it")
    return Check("GPU", f"none seen; {_SLOWER}", "if there is one, nvidia-smi must see it; docker run needs --gpus all")


def _data_folder(root: Path | None) -> list[Check]:
    """What speaks against the folder that --data names, if anything does."""
    if root is None:
        return []
    try:
        os.listdir(root)
    except OSError as error:
        return [Check("data folder", f"{root}: cannot be read ({error.strerror})", _OTHER_FOLDER, failed=True)]
    return []


def _dataset(name: str, root: Path | None) -> Check:
    try:
        place = find_dataset(name, root)
        if place is not None:
            check_files(name, place)
            return Check(name, f"in {place}")
    except SoftadvError as error:
        unreadable = isinstance(error.__cause__, OSError)
        advice = _OTHER_FOLDER if unreadable else "replace that file, or name another folder with --data"
        return Check(name, str(error), advice)
    searched = ", ".join(str(place) for place in search_places(root))
    return Check(
        name,
        f"not found in {searched}",
        "name their folder with --data or SOFTADV_DATA" + ("" if root else ", or let a run download them into ./data"),
    )


def _eran() -> Check:
    if not os.environ.get("SOFTADV_ERAN"):
        return Check("ERAN", "not here", "not needed: softadv's own certifier answers; the container has ERAN")
    try:
        engines = eran.available()
    except SoftadvError as error:
        return Check("ERAN", str(error), "correct SOFTADV_ERAN, or unset it")
    findings = [
        Check(
            name,
            offer.removeprefix(f"{name}: "),
            "it needs a GPU (docker run needs --gpus all); softadv's own certifier and ERAN do without"
            if eran.NO_DEVICE in offer
            else "correct SOFTADV_ERAN, or build the container anew (docker/eran/build.sh)",
        )
        if isinstance(offer, str)
        else Check(name, offer.version)
        for name, offer in engines.items()
    ]
    return _together("ERAN", findings)
