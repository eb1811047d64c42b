"""Input lines: with editing and history at a terminal, plain from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from helix_mlx.cli.console.interrupt import ctrl_c_as_exception
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.console.text import checked_text, not_utf8
from helix_mlx.errors import PromptError
from helix_mlx.files import write_beside

LINES_KEPT = 1000
BLOCK = '"""'
"""Begins and ends a message of several lines."""


class Keyboard:
    """Reads the user's lines.

    At a terminal lines can be edited and fetched back with the arrow keys, where Python has readline, and are
    remembered for the next chat.

    Args:
        terminal: where the prompt is painted.
        history: the file that remembers lines; None remembers nothing.
    """

    def __init__(self, terminal: Terminal, history: Path | None) -> None:
        self.interactive = sys.stdin.isatty() and terminal.live
        self._terminal = terminal
        self._history = history if self.interactive else None
        self._typed: list[str] = []
        if self._history is not None:
            _recall(_read_lines(self._history))

    def read(self, continued: bool = False) -> str:
        """The next line.

        Args:
            continued: it belongs to the line before, which the prompt shows.

        Raises:
            EOFError: there is none.
            KeyboardInterrupt: Ctrl-C was pressed.
            PromptError: the line is no text.
        """
        try:
            with ctrl_c_as_exception():
                line = input(self._prompt("..." if continued else ">")) if self.interactive else sys.stdin.readline()
        except UnicodeDecodeError:
            raise not_utf8() from None
        except OSError as error:
            if self.interactive:
                raise  # the terminal is gone
            raise PromptError(
                f"cannot read standard input: {error.strerror or error}; redirect it from another source"
            ) from None
        if not self.interactive and not line:
            raise EOFError
        if line.strip():
            self._typed.append(" ".join(line.splitlines()))
        return checked_text(line.rstrip("\n"))

    def read_block(self, first: str) -> str:
        """Read the rest of a message in triple quotes, which is never taken for a command.

        Args:
            first: the line that begins it.

        Returns:
            What is between the quotes, without the line ends next to them.

        Raises:
            PromptError: the input ends before the message does.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        lines = [first.lstrip().removeprefix(BLOCK)]
        while not lines[-1].rstrip().endswith(BLOCK):
            try:
                lines.append(self.read(continued=True))
            except EOFError:
                if self.interactive:
                    self._terminal.line()
                raise PromptError(f"the input ended inside a message; close the message with {BLOCK}") from None
        lines[-1] = lines[-1].rstrip().removesuffix(BLOCK)
        return "\n".join(lines).strip("\n")

    def remember(self) -> None:
        """Append the typed lines to the history file; write errors are ignored."""
        if self._history is None or not self._typed:
            return
        try:
            self._history.parent.mkdir(parents=True, exist_ok=True)
            lines = [*_read_lines(self._history), *self._typed][-LINES_KEPT:]
            text = "".join(line + "\n" for line in lines)
            write_beside(self._history, text.encode("utf-8", errors="replace"), mode=0o600)
        except OSError:
            pass
        self._typed.clear()

    def _prompt(self, mark: str) -> str:
        if not self._terminal.colour:
            return f"{mark} "
        # Readline must know which characters are invisible.
        return f"\x01\x1b[1m\x02{mark}\x01\x1b[0m\x02 " if _has_readline() else f"\x1b[1m{mark}\x1b[0m "


def opens_block(line: str) -> bool:
    """Whether a line begins a message of several lines."""
    return line.lstrip().startswith(BLOCK)


def history_file(environment: Mapping[str, str]) -> Path | None:
    """The history file, in the user's state folder; None if there is no home folder."""
    try:
        state = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError:
        return None
    return Path(state) / "helix-mlx" / "history"


def _has_readline() -> bool:
    try:
        import readline  # noqa: F401
    except ImportError:
        return False
    return True


def _recall(lines: list[str]) -> None:
    """Give readline the lines of earlier chats."""
    try:
        import readline
    except ImportError:
        return
    for line in lines:
        readline.add_history(line)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
