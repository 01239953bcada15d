"""The documents: every command that they show is one, every part made from the code is as the code makes it."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer.main

from benchmarks import answer
from benchmarks.documents import FIGURES, ROOT, makers, parts
from softadv.certify.domains import CERTIFIER_DOMAINS
from softadv.cli import output, running
from softadv.cli.app import _INTERRUPTED, app
from softadv.experiments.reference import REFERENCE
from softadv.experiments.spec import Trial, load_grid, packaged_grids
from softadv.report.figures.colors import contrast

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", *PAGES]
AGAIN = "make it again: python -m benchmarks.documents"

# What stands for a name in the documents, and one that does.
PLACES = {
    "GRID": "smoke",
    "[GRID]": "smoke",
    "DIR": "data",
    "MODEL": "weights.safetensors",
    "TRIAL": "a",
    "FOLDER": "runs",
}


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


@pytest.mark.parametrize(("document", "name"), makers())
def test_a_part_is_as_it_is_made(document: str, name: str) -> None:
    assert parts(document).get(name) == makers()[document, name](), f"{document}, {name}: {AGAIN}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_nothing_else_says_that_it_is_made(document: str) -> None:
    assert set(parts(document)) == {name for where, name in makers() if where == document}
    assert text_of(document).count("<!-- made:") == len(parts(document))


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_no_mark_of_a_merge_is_left(document: str) -> None:
    assert not re.search(r"^(<{7}|={7}|>{7})( |$)", text_of(document), re.MULTILINE)


@pytest.mark.parametrize(
    ("document", "most"), [("README.md", 120), ("CONTRIBUTING.md", 60), *((p, 150) for p in PAGES)]
)
def test_a_document_is_short(document: str, most: int) -> None:
    assert len(text_of(document).splitlines()) <= most


def test_the_answer_has_at_most_eight_rows() -> None:
    assert 3 <= len(answer.table(answer.answers()).splitlines()) <= 2 + 8


def commands_of(document: str) -> list[list[str]]:
    """The words of every command of softadv's that a document shows, in a block or within a line."""
    text = text_of(document)
    lines = re.findall(r"^    (.+)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    found = []
    for line in lines:
        for part in re.split(r"\s&&\s|, then ", line.split("  #")[0]):
            words = shlex.split(part.split(" > ")[0])
            words = [PLACES.get(word, word) for word in words]
            if words and Path(words[0]).name in ("softadv", "reproduce.sh", "docker", "apptainer", "python"):
                found.append(words)
    return found


SHOWN = [pytest.param(document, words, id=" ".join(words)) for document in DOCUMENTS for words in commands_of(document)]


@pytest.mark.parametrize(("document", "words"), SHOWN)
def test_a_command_is_understood(document: str, words: list[str]) -> None:
    first, *rest = words
    if first.endswith("python"):
        assert find_spec(rest[1]) if rest[0] == "-m" else (ROOT / rest[0]).exists(), document
        return
    if first in ("docker", "apptainer"):
        if rest[0] != "run":
            return
        image = next(i for i, word in enumerate(rest) if re.fullmatch(r"softadv(:cpu|\.sif)?", word))
        rest = rest[image + 1 :]
    elif first == "./reproduce.sh":
        if rest[:1] in (["test"], ["--docker"]):
            rest = ["reproduce", *rest[1:]] if rest[0] == "--docker" else []
        else:
            rest = ["reproduce", *rest]
    understood(rest, where=document)


def understood(words: list[str], *, where: str) -> None:
    """Whether the command line would take these words; nothing runs."""
    root = typer.main.get_command(app)
    if not words or words[0].startswith("-"):
        assert not set(words) - {"--help", "-h", "--version"}, where
        return
    command = root.commands[words[0]]  # type: ignore[attr-defined]
    if len(words) == 1 or (words[1:] == ["--set"]):
        return  # the command, or an option, is only named
    context = command.make_context(words[0], words[1:], resilient_parsing=False)
    if words[0] == "reproduce" and not context.params["grid"].endswith(".toml"):
        load_grid(context.params["grid"])


def test_commands_are_found_in_the_documents() -> None:
    assert len(SHOWN) > 40
    assert any(words[:2] == ["docker", "run"] for words in commands_of("docs/container.md"))


def test_every_option_is_in_a_page() -> None:
    pages = "".join(text_of(page) for page in PAGES)
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert re.search(rf"^\| `{name}` \|", pages, re.MULTILINE)
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("-"):
                    assert re.search(rf"^\| `[^`]*{option}\b[^`]*` \| [^|]*\b{name}\b", pages, re.MULTILINE), (
                        name,
                        option,
                    )


def test_every_exit_code_is_in_the_table() -> None:
    table = text_of("docs/commands.md").partition("## Exit codes")[2]
    codes = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", table)}
    assert codes == {0, 1, 2, _INTERRUPTED, output._CLOSED, running._TERMINATED}


def test_every_packaged_grid_is_named() -> None:
    for grid in set(packaged_grids()) - {"smoke"}:
        assert f"./reproduce.sh {grid}" in text_of("docs/grids.md")
    for grid in packaged_grids():
        assert f"\n| `{grid}` |" in text_of("docs/grids.md")


def test_the_assumptions_are_all_keys_of_a_spec() -> None:
    table = text_of("docs/assumptions.md").split("##")[0]
    keys = {key for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", cell)}
    usual = {
        "optimizer",
        "lr",
        "momentum",
        "batch_size",
        "split_every",
        "split",
        "split_share",
        "update",
        "attack",
        "tf32",
    }
    assert keys == usual | {
        "random_start",
        "natural_epochs",
        "normalize",
        "augment",
        "domain",
        "certifier",
        "seed",
        "tf32",
    }
    assert keys <= Trial.__dataclass_fields__.keys()


def test_the_library_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", text_of("README.md"), re.DOTALL)
    exec(code, {})  # prints the certified accuracy
    last = capsys.readouterr().out.splitlines()[-1]
    assert 0 <= float(last.removeprefix("tensor(").rstrip(")")) <= 1


def test_the_engines_of_the_certifier_are_named() -> None:
    page = text_of("docs/certifier.md")
    assert all(f"`{name}`" in page or f"`--certifier {name}`" in page for name in set(CERTIFIER_DOMAINS) - {"native"})


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_is_linked_or_shown_is_there(document: str) -> None:
    folder = (ROOT / document).parent
    links = re.findall(r"\]\(([^)#]+)\)", text_of(document))
    assert [link for link in links if not link.startswith("https://") and not (folder / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_a_document_names_are_there(document: str) -> None:
    own = re.findall(r"`((?:expected_results|docker|examples|tests|docs|benchmarks)/[\w./-]*)`", text_of(document))
    assert [name for name in own if not (ROOT / name).exists()] == []


def test_every_grid_of_the_reference_has_its_results_in_a_page() -> None:
    stored = {path.name for path in (ROOT / "expected_results" / REFERENCE).iterdir() if path.is_dir()}
    shown = {name for _, name in makers()}
    assert all(f"results {grid}" in shown for grid in stored - {"smoke"})


def test_every_picture_can_be_made_again_and_is_shown() -> None:
    shown = "".join(map(text_of, DOCUMENTS))
    assert {path.name for path in (ROOT / "docs" / "figures").iterdir()} == FIGURES.keys()
    assert all(f"figures/{name})" in shown for name in FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_can_be_read_on_light_and_dark(name: str) -> None:
    """The files follow their reader's scheme, which need not be that of the page around them: each has a ground."""
    drawn = (ROOT / "docs" / "figures" / name).read_text(encoding="utf-8")
    _, style, dark = re.split(r"<style>|prefers-color-scheme: dark", drawn.partition("</style>")[0])
    assert drawn.partition("</style>")[2].startswith('<rect class="ground" width="')
    for scheme in (style, dark):
        (ground,) = re.findall(r"\.figure \.ground { fill: (#\w{6}); }", scheme)
        (ink,) = re.findall(r"\.figure { color: (#\w{6}); }", scheme)
        assert contrast(ink, ground) >= 4.5
        lines = re.findall(r"\.s-\w{6} { stroke: (#\w{6}); }", scheme)
        assert lines
        assert all(contrast(line, ground) >= 3 for line in lines)
