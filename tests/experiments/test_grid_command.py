"""The command that reruns a grid, on this machine and on any other."""

from __future__ import annotations

import pytest

from softadv.experiments.grid_command import given_command, portable_command


def test_a_command_is_quoted_as_a_shell_takes_it_and_says_what_was_given() -> None:
    options = {"--data": None, "--out": "a b", "--seeds": 2, "--autoattack": True, "--from-weights": False}
    assert given_command(["softadv", "reproduce"], "my grid.toml", options) == (
        "softadv reproduce 'my grid.toml' --out 'a b' --seeds 2 --autoattack"
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("./reproduce.sh mnist --seeds 1", "./reproduce.sh mnist --seeds 1"),
        ("./reproduce.sh mnist --out /a/b/mnist --seeds 1", "./reproduce.sh mnist --seeds 1"),
        ("./reproduce.sh mnist --data /a --out '/b c' --seeds 2", "./reproduce.sh mnist --seeds 2"),
        ("./reproduce.sh mnist --data=/a --methods natural,soft", "./reproduce.sh mnist --methods natural,soft"),
        ("./reproduce.sh mnist --data '/a b/c' --out runs/x", "./reproduce.sh mnist --out runs/x"),
        (r"softadv reproduce 'C:\my\own.toml' --data D:/data", "softadv reproduce own.toml"),
        ("./reproduce.sh /a/b/own.toml", "./reproduce.sh own.toml"),
        ("./reproduce.sh mnist --redo=/a/b=c", "./reproduce.sh mnist --redo=b=c"),
        ("softadv reproduce x --out <y>", "softadv reproduce x --out <y>"),
        ("./reproduce.sh 'unfinished", ""),
        ("", ""),
    ],
)
def test_a_portable_command_has_no_path_of_the_machine(given: str, kept: str) -> None:
    assert portable_command(given) == kept
