"""What may be written where: is it a terminal, and does it want colour."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

DIM, SHADE, BOLD, ERROR = "2", "36", "1", "31"
"""Escape codes. The shade of drafted tokens is cyan, which reads on light and on dark."""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, their columns under each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@dataclass(frozen=True)
class Terminal:
    """Standard output and error, and what they are.

    `live` tells output that a person watches as it comes; `colour`, that it takes escape codes; `live_errors`, that
    standard error is a terminal, where a progress bar can be drawn and wiped.
    """

    out: TextIO
    err: TextIO
    live: bool
    colour: bool
    live_errors: bool

    @classmethod
    def of_process(cls, environment: Mapping[str, str], no_color: bool) -> Terminal:
        """What this process writes to. NO_COLOR and a dumb terminal are honoured."""
        live = sys.stdout.isatty()
        plain = no_color or bool(environment.get("NO_COLOR")) or environment.get("TERM") == "dumb"
        return cls(sys.stdout, sys.stderr, live, live and not plain, sys.stderr.isatty())

    def paint(self, text: str, code: str) -> str:
        """The text in a colour, where colour is wanted."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text

    def write(self, text: str) -> None:
        """Write text at once, without a line end."""
        self.out.write(text)
        self.out.flush()

    def line(self, text: str = "", code: str = "") -> None:
        """Write a line."""
        self.write(self.paint(text, code) + "\n" if code else text + "\n")

    def error_line(self, text: str) -> None:
        """Write a line to standard error."""
        self.err.write(text + "\n")
        self.err.flush()
