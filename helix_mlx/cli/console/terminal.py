"""What may be written where: is it a terminal, and does it want colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

DIM, SHADE, BOLD, ERROR = "2", "36", "1", "31"
"""Escape codes. The shade of drafted tokens is cyan, which reads on light and on dark."""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, their columns under each other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def human_bytes(count: int) -> str:
    """A number of bytes for people, in powers of ten as disks are sold."""
    if count >= 10**9:
        return f"{count / 10**9:.1f} GB"
    return f"{count / 10**6:.1f} MB" if count < 10**7 else f"{count / 10**6:.0f} MB"


def open_streams() -> None:
    """Give a process without standard streams, as after `>&-`, ones that lead nowhere.

    Else the next file that is opened would have the number of one, and what is written there would end up in it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)  # the compiler of the kernels had better have one, too
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))


def silence(stream: TextIO) -> None:
    """Let a stream that nobody reads any more lead nowhere: the interpreter complains about it as it ends."""
    with suppress(OSError, ValueError):  # one in memory has no number
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)


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
        """Write a line to standard error, if anybody reads it: an answer does not end for that."""
        try:
            self.err.write(text + "\n")
            self.err.flush()
        except BrokenPipeError:
            silence(self.err)
