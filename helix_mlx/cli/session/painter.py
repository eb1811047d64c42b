"""Prints an answer as it streams: at a terminal with dimmed reasoning and coloured drafts, else as plain text."""

from __future__ import annotations

from helix_mlx.cli.console.terminal import DIM, SHADE, Terminal
from helix_mlx.request import Chunk


class Painter:
    """Writes the chunks of an answer; escape codes only where the style changes.

    Args:
        terminal: where they go.
        whole: whether reasoning is written where nobody watches, too, and the whole text is as it was generated.
        drafts: whether drafted tokens are shaded.
    """

    def __init__(self, terminal: Terminal, *, whole: bool = False, drafts: bool = True) -> None:
        self._terminal = terminal
        self._reasoning_too = whole or terminal.live
        self._drafts = drafts
        self._style = ""
        self._last = ""

    def write(self, chunk: Chunk) -> None:
        """Write a chunk's text."""
        if not chunk.text or (chunk.reasoning and not self._reasoning_too):
            return
        codes = [DIM] if chunk.reasoning else []
        codes += [SHADE] if chunk.from_draft and self._drafts else []
        self._terminal.write(self._change(";".join(codes)) + chunk.text)
        self._last = chunk.text

    def end(self) -> None:
        """Reset the style."""
        if change := self._change(""):
            self._terminal.write(change)

    def end_line(self) -> None:
        """End the line, unless the answer has."""
        if not self._last.endswith("\n"):
            self._terminal.line()

    def _change(self, style: str) -> str:
        if not self._terminal.colour or style == self._style:
            return ""
        before, self._style = self._style, style
        if not style:
            return "\x1b[0m"
        return f"\x1b[0;{style}m" if before else f"\x1b[{style}m"
