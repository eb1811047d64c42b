from __future__ import annotations

import builtins
import io
import sys
from pathlib import Path

import pytest

from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.session.keyboard import LINES_KEPT, Keyboard, history_file, opens_block
from helix_mlx.errors import PromptError


class Keys(io.StringIO):
    """Standard input that says it is a keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines that a user is about to type; readline is away."""
    lines: list[str] = []
    monkeypatch.setattr(sys, "stdin", Keys())
    monkeypatch.setattr(builtins, "input", lambda prompt: lines.pop(0))
    monkeypatch.setitem(sys.modules, "readline", None)
    return lines


def test_it_works_without_readline(typed: list[str], terminal: Terminal, tmp_path: Path) -> None:
    keyboard = Keyboard(terminal, tmp_path / "history")
    typed[:] = ["one", ""]
    assert [keyboard.read(), keyboard.read()] == ["one", ""]


def test_what_is_typed_is_added_to_what_others_have_typed_since(
    typed: list[str], terminal: Terminal, tmp_path: Path
) -> None:
    file = tmp_path / "state" / "history"
    first, second = Keyboard(terminal, file), Keyboard(terminal, file)
    typed[:] = ["one", "two\nlines", "  "]
    first.read()
    second.read()
    second.read()
    first.remember()
    second.remember()
    second.remember()
    assert file.read_text() == "one\ntwo lines\n"
    assert list(file.parent.iterdir()) == [file]


def test_old_lines_are_forgotten(typed: list[str], terminal: Terminal, tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text("old\n" * LINES_KEPT)
    keyboard = Keyboard(terminal, file)
    typed[:] = ["new"]
    keyboard.read()
    keyboard.remember()
    lines = file.read_text().splitlines()
    assert len(lines) == LINES_KEPT
    assert lines[-1] == "new"


def test_a_history_that_cannot_be_kept_is_no_error(typed: list[str], terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keyboard = Keyboard(terminal, tmp_path / "file" / "history")
    typed[:] = ["one"]
    keyboard.read()
    keyboard.remember()


def test_a_line_that_is_no_text_is_told(typed: list[str], terminal: Terminal) -> None:
    typed[:] = ["caf\udce9"]
    with pytest.raises(PromptError, match="not valid UTF-8"):
        Keyboard(terminal, None).read()


def test_a_pipe_has_no_history(monkeypatch: pytest.MonkeyPatch, terminal: Terminal, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    keyboard = Keyboard(terminal, tmp_path / "history")
    assert keyboard.read() == "one"
    keyboard.remember()
    assert not (tmp_path / "history").exists()
    with pytest.raises(EOFError):
        keyboard.read()


def test_the_history_lies_in_the_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file({"XDG_STATE_HOME": "/state"}) == Path("/state/helix-mlx/history")
    assert history_file({}) == tmp_path / ".local" / "state" / "helix-mlx" / "history"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['"""', "one", "", "  /two", '"""'], "one\n\n  /two"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
        (['"""', '"""'], ""),
    ],
)
def test_lines_between_quotes_are_one_message(
    typed: list[str], terminal: Terminal, lines: list[str], message: str
) -> None:
    typed[:] = lines
    keyboard = Keyboard(terminal, None)
    first = keyboard.read()
    assert opens_block(first)
    assert keyboard.read_block(first) == message
    assert typed == []
