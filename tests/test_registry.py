"""What a name stands for: the object itself, a registered one, or one's own by its import path."""

from __future__ import annotations

import functools
import hashlib
import sys
from pathlib import Path

import pytest

from softadv.errors import SoftadvError
from softadv.registry import Origin, Registry, call, check_unchanged, origin
from tests.refusals import refusal


@pytest.fixture
def shapes() -> Registry:
    registry = Registry("shape")
    registry.register("square")(lambda: "a square")
    registry.register("circle")(lambda: "a circle")
    registry.register("file:PATH")(lambda path, **more: f"from {path} with {more}")
    return registry


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module into the current folder, which is a new one; the module is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(name: str, text: str) -> Path:
        path = Path(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        written.append(name.split(".", maxsplit=1)[0])
        return path.resolve()

    yield write
    for name in [n for n in sys.modules if n.split(".", maxsplit=1)[0] in written]:
        del sys.modules[name]


def test_a_registered_name_is_found_and_an_object_is_itself(shapes):
    assert shapes.get("circle")() == "a circle"
    assert shapes.get(len) is len
    assert shapes.names() == ("square", "circle", "file:PATH")


def test_a_name_may_take_a_text_behind_a_colon(shapes):
    assert shapes.get("file:a:b/c")(k=1) == "from a:b/c with {'k': 1}"
    assert "expected file:PATH" in refusal(shapes.get, "file:")
    assert "unknown name 'file'" in refusal(shapes.get, "file")


def test_a_name_cannot_be_given_twice(shapes):
    for name in ("circle", "file:NAME", "circle:NAME"):
        assert "taken" in refusal(shapes.register(name), len)


def test_an_unknown_name_is_answered_with_the_known_ones_and_the_closest(shapes):
    message = refusal(shapes.get, "cirle")
    assert message.startswith("shape: unknown name 'cirle', did you mean circle?")
    assert "square, circle, file:PATH, package.module:attribute" in message
    assert "did you mean" not in refusal(shapes.get, "zzzz")


def test_what_cannot_be_of_this_kind_is_refused(shapes, own):
    own("softadv_kinds", "number = 3")
    assert refusal(shapes.get, "softadv_kinds:number").endswith("expected a function, got a int")
    assert "expected a function, got a int" in refusal(shapes.get, 3)


def test_a_module_of_the_current_folder_is_found_and_the_path_is_as_before(shapes, own):
    own("softadv_mine", "class Shapes:\n    @staticmethod\n    def oval():\n        return 'an oval'\n")
    own("softadv_pack.inner", "from softadv_mine import Shapes\nround = Shapes.oval\n")
    before = list(sys.path)
    assert shapes.get("softadv_mine:Shapes.oval")() == "an oval"
    assert shapes.get("softadv_pack.inner:round")() == "an oval"
    assert sys.path == before


def test_a_module_written_after_a_vain_attempt_is_found(shapes, own):
    assert "no module softadv_late" in refusal(shapes.get, "softadv_late:f")
    own("softadv_late", "def f(): return 1")
    assert shapes.get("softadv_late:f")() == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import softadv_nowhere", "cannot be imported (ModuleNotFoundError: No module named 'softadv_nowhere'"),
        ("x = 1\nx = {}['key']", "line 2)"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("raise ValueError", "(ValueError; "),
    ],
)
def test_why_a_module_cannot_be_imported_is_said_in_one_line(shapes, own, text, said):
    path = own("softadv_broken", text)
    message = refusal(shapes.get, "softadv_broken:f")
    assert message.startswith("shape 'softadv_broken:f': module softadv_broken cannot be imported (")
    assert said in message
    assert path.name in message
    assert "softadv_broken" not in sys.modules


def test_a_missing_module_or_attribute_is_named(shapes, own):
    path = own("softadv_mine", "def small_net(): pass")
    assert f"there is no module softadv_nowhere in the current folder ({Path.cwd()})" in refusal(
        shapes.get, "softadv_nowhere.deep:f"
    )
    assert "there is no module softadv_mine.deep" in refusal(shapes.get, "softadv_mine.deep:f")
    message = refusal(shapes.get, "softadv_mine:smal_net")
    assert f"module softadv_mine ({path}) has no 'smal_net'; did you mean small_net?" in message
    assert "has no 'x'" in refusal(shapes.get, "softadv_mine:small_net.x")


@pytest.mark.parametrize("name", ["a b:c", "mod:", ":f", "a/b:f", "mod:f()", "a..b:c", "mod:f:g", ".a:b", "\0:a"])
def test_what_is_no_import_path_is_refused(shapes, name):
    assert "expected package.module:attribute" in refusal(shapes.get, name)


def test_a_file_instead_of_a_module_is_told(shapes):
    assert "such as nets:small" in refusal(shapes.get, "my/nets.py:small")


def test_what_the_code_of_others_raises_is_one_line_with_file_and_line(own, shapes):
    path = own("softadv_mine", "import json\ndef f(text):\n    return json.loads(text)\n")
    function = shapes.get("softadv_mine:f")
    assert call("shape x", function, "[1]") == [1]
    message = refusal(call, "shape x", function, "[1")
    assert message.startswith("shape x: raised JSONDecodeError: ")
    assert message.endswith(f"; {path}, line 3")


def test_an_error_that_is_one_line_already_is_left_as_it_is():
    def refuse():
        raise SoftadvError("as it is")

    assert refusal(call, "shape x", refuse) == "as it is"


def test_an_origin_is_the_import_path_and_the_digest_of_the_file(own, shapes):
    path = own("softadv_mine", "def f(): pass\nclass C:\n    def __call__(self): pass\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    f, c = shapes.get("softadv_mine:f"), shapes.get("softadv_mine:C")
    assert origin(f) == Origin("softadv_mine:f", digest)
    assert origin(functools.partial(f, 1)) == Origin("softadv_mine:f", digest)
    assert origin(c) == origin(c()) == Origin("softadv_mine:C", digest)
    assert origin(len) == Origin("builtins:len", None)


def test_changed_code_is_told(own, shapes):
    path = own("softadv_mine", "def f(): pass\ndef g(): pass\n")
    f, g = shapes.get("softadv_mine:f"), shapes.get("softadv_mine:g")
    recorded = origin(f)
    check_unchanged("shape", recorded=recorded, now=origin(f))
    message = refusal(lambda: check_unchanged("shape", recorded=recorded, now=origin(g)))
    assert message.startswith("shape softadv_mine:f: is softadv_mine:g now")
    path.write_text(path.read_text() + "\n")
    message = refusal(lambda: check_unchanged("shape", recorded=recorded, now=origin(f)))
    assert message.startswith("shape softadv_mine:f: its source file changed since the run began (SHA-256 ")


def test_the_origin_of_an_object_is_the_module_that_makes_it(own, shapes):
    """Its settings are there; its class's file counts, too, where softadv's version does not identify it."""
    kinds = own("softadv_kinds", "class C:\n    def __call__(self): pass\n")
    path = own(
        "softadv_mine",
        "import functools\nfrom softadv.attacks import PGD\nfrom softadv_kinds import C\n"
        "strong, c, part, other = PGD(steps=3, alpha=0.1), C(), functools.partial(C, 1), C\n",
    )
    alone, both = (
        hashlib.sha256(data).hexdigest() for data in (path.read_bytes(), path.read_bytes() + kinds.read_bytes())
    )
    found = {name: origin(shapes.get(name), name=name) for name in map("softadv_mine:{}".format, (
        "strong", "PGD", "c", "part", "other"
    ))}  # fmt: skip
    assert list(found.values()) == [
        Origin("softadv_mine:strong", alone),
        Origin("softadv_mine:PGD", alone),
        Origin("softadv_mine:c", both),
        Origin("softadv_mine:part", both),
        Origin("softadv_kinds:C", hashlib.sha256(kinds.read_bytes()).hexdigest()),
    ]
