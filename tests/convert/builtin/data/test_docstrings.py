from __future__ import annotations

import ast
from typing import cast

import pytest

from helix_mlx.convert.builtin.data.docstrings import first_sentence, module_name, module_questions, signature

SOURCE = '''"""Work with small numbers."""
def double(x, *, times=1):
    """Return twice the number x. Then stop."""
def _hidden():
    """Nobody asks about this function."""
class Box:
    """A box that holds one number."""
    def open(self, key=None):
        """Open the box with a key."""
    def _lock(self):
        """Nobody asks about this method."""
'''


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return the number of items. More.", "Return the number of items."),
        ("split(s [,sep]) -> list\n\nReturn the words of a string", "Return the words of a string."),
        ("return a copy,\n   e.g. of a list.", "Return a copy, e.g. of a list."),
        ("Use ``len`` for the length.", "Use `len` for the length."),
        ("Too short.", None),
        ("Internal: do not call this one.", None),
        ("x" * 200, None),
        (None, None),
    ],
)
def test_the_first_sentence_is_what_a_small_model_learns(docstring: str | None, sentence: str | None) -> None:
    assert first_sentence(docstring) == sentence


@pytest.mark.parametrize(
    ("head", "is_method", "shown"),
    [
        ("def f(self, a: int, b=1)", True, "f(a, b=1)"),
        ("def f(self)", False, "f(self)"),
        ("def f(a, *rest, key='a very long default', **more)", False, "f(a, *rest, key, **more)"),
        ("def f(a, *, key=2, _private=3)", False, "f(a, *, key=2)"),
        ("def f(a='a very long default value')", False, "f(a=...)"),
    ],
)
def test_a_signature_is_as_one_would_call_it(head: str, is_method: bool, shown: str) -> None:
    node = cast("ast.FunctionDef", ast.parse(f"{head}: ...").body[0])
    assert signature("f", node, is_method) == shown


def test_a_long_signature_is_cut() -> None:
    node = cast("ast.FunctionDef", ast.parse(f"def f({', '.join(f'argument{n}' for n in range(20))}): ...").body[0])
    shown = signature("f", node, False)
    assert shown.startswith("f(argument0, argument1")
    assert shown.endswith(", ...)")
    assert len(shown) <= 90


def test_modules_are_named_as_they_are_imported() -> None:
    assert [module_name(name) for name in ("os.py", "json/__init__.py", "json/decoder.py")] == [
        "os", "json", "json.decoder"
    ]  # fmt: skip


def test_what_is_public_and_documented_is_asked_about() -> None:
    triples = list(module_questions("small", SOURCE))
    assert {subject for subject, _, _ in triples} == {"small", "small.double", "small.Box", "small.Box.open"}
    answers = {question: answer for _, question, answer in triples}
    assert answers["What does small.double do?"] == "`small.double(x, *, times=1)`: Return twice the number x."
    assert answers["Show the signature of small.Box.open."] == "`small.Box.open(key=None)`"
    assert answers["Which function of small does this: return twice the number x?"] == "`small.double`"
    assert answers["What is the small module for?"] == "small: Work with small numbers."
