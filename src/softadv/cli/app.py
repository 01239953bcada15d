"""The command line: what commands there are, and how one ends.

docs/commands.md says what the exit codes mean.
"""

from __future__ import annotations

import io
import re
import sys
from typing import Annotated

import torch
import typer

from softadv._versions import package_version
from softadv.cli import grid_commands, listing, model_commands, output, verify_commands
from softadv.cli.doctor import examine
from softadv.cli.options import DataRoot, rarely_needed
from softadv.errors import DivergedError, SoftadvError
from softadv.experiments import environment

app = typer.Typer(
    help="Soft adversarial training: certify the training set, attack only what is not verified.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its help shows a flag as an option that takes a value
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
_RUN = "runs/smoke/digits-eps0.1-soft-seed0"
for name, command, example in (
    ("reproduce", grid_commands.reproduce, "softadv reproduce mnist --data data --seeds 1"),
    ("train", grid_commands.train, "softadv train runs/mine --method soft --eps 0.1 --epochs 2"),
    ("evaluate", model_commands.evaluate, f"softadv evaluate {_RUN} --limit 100"),
    ("certify", model_commands.certify, f"softadv certify {_RUN} --eps 0.05 --out results.csv"),
    ("parity", model_commands.parity, f"softadv parity {_RUN} --images 10"),
    ("attack", model_commands.attack, f"softadv attack {_RUN} --attack torchattacks:FGSM --limit 100"),
    ("export", model_commands.export, f"softadv export {_RUN} --out model.onnx"),
    ("verify", verify_commands.verify, "softadv verify property.vnnlib --network N=net.onnx --timeout 60"),
    ("supports", verify_commands.supports, "softadv supports --onnx-operators"),
    ("compare", grid_commands.compare, "softadv compare runs/smoke"),
    ("report", grid_commands.report, "softadv report runs/smoke --out page"),
    ("keep", grid_commands.keep, "softadv keep runs/smoke"),
    ("list", listing.list_names, "softadv list methods"),
    ("schema", listing.schema, "softadv schema > grid.schema.json"),
):
    rare = ", ".join(rarely_needed(command))
    more = f"\n\nRarely needed (docs/commands.md): {rare}" if rare else ""
    app.command(name, epilog=f"Example: {example}{more}")(command)

_INTERRUPTED = 130  # what Typer makes of Ctrl-C
# Typer's words for a bad value, and softadv's.
_REWORDED = (
    (r"Invalid value for '([^']+)'(?: \(env var: '\w+'\))?: (?:Value error, )?", r"\1: "),
    (r"Input should be a valid integer\b.*", "expected a whole number"),
    (r"Input should be a valid number\b.*", "expected a number"),
    (r"Input should be greater than or equal to ", "must be at least "),
    (r"Input should be less than or equal to ", "must be at most "),
    (r"\.$", ""),
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every error that the user can mend is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a tick that a terminal cannot show is no reason to stop
    try:
        with output.watched_output(), output.warnings_as_lines():
            code = _run(arguments)
    except output.OutputLost as lost:
        output.complain(str(lost))
        code = lost.code
    sys.exit(code)


def _run(arguments: list[str] | None) -> int:
    try:
        code = app(arguments, standalone_mode=False)
    except typer.TyperException as error:
        output.complain(f"{_reworded(' '.join(error.format_message().split()))} (see --help)")
        return 2
    except DivergedError as error:
        output.complain(str(error))
        return 1
    except SoftadvError as error:
        output.complain(str(error))
        return 2
    except OSError as error:  # of the machine: a folder that may not be read, a disk that is full
        where = f"{error.filename}: " if error.filename else ""
        output.complain(f"{where}{error.strerror or error}")
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        output.complain(f"out of memory: {' '.join(str(error).split()) or 'none is left'}")
        return 2
    if code == _INTERRUPTED:
        output.complain("interrupted; given again, reproduce, train and certify --out go on where they stopped")
    return int(code or 0)


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch on the CPU, and what it calls on a GPU, raise a RuntimeError that only its text tells from others.
    texts = ("DefaultCPUAllocator: ", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in texts)


def _reworded(message: str) -> str:
    for theirs, ours in _REWORDED:
        message = re.sub(theirs, ours, message)
    return message


def _say_version(asked: bool) -> None:
    if asked:
        output.say(f"softadv {package_version('softadv')}, commit {environment.commit()}")
        raise typer.Exit


@app.callback()
def _softadv(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: softadv doctor --data data")
def doctor(data: DataRoot = None) -> int:
    """What this machine has, with advice for each thing missing."""
    findings = examine(data)
    output.show_findings(findings)
    return int(any(finding.failed for finding in findings))
