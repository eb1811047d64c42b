"""What the program shows, whole, as files under golden/: `python -m tests.cli.golden_files` writes them anew."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any, cast

from click.testing import CliRunner

import helix_mlx
from helix_mlx.cli.app import program
from helix_mlx.cli.chat import converse, greet
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.session.keyboard import Keyboard
from helix_mlx.cli.session.repl import Repl
from helix_mlx.request import SamplingParams
from tests.cli.fakes import FakeEngine

GOLDEN = Path(__file__).parent / "golden"
WIDTH = 100
HELP = {
    "help": ("--help",),
    "help_chat": ("chat", "--help"),
    "help_generate": ("generate", "--help"),
    "help_pairs": ("pairs", "--help"),
    "help_bench": ("bench", "--help"),
}
CHAT = '''\
hello there
/help
"""first line
  /second line
"""
/retry
/set temperature 0.7
/set seed 5
/retry
/draft 9
think about it
too long
/stats
/save talk.json
/reset
/load talk.json
/load talk.md
/retyr
and on
/quit
'''
NAMES = [*HELP, "chat"]


class Script(Keyboard):
    """A keyboard at which lines are typed that are known before; they are shown as a terminal would."""

    def __init__(self, terminal: Terminal, text: str) -> None:
        super().__init__(terminal, None)
        self.interactive = True
        self._lines = iter(text.splitlines())

    def read(self, continued: bool = False) -> str:
        line = next(self._lines)
        self._terminal.line(f"{'...' if continued else '>'} {line}")
        return line


def shown(name: str) -> str:
    """What the file of that name should hold."""
    if name == "chat":
        return chat_transcript()
    settings = cast("dict[str, Any]", {"prog_name": "helix-mlx", "obj": {}, "terminal_width": WIDTH})
    return CliRunner().invoke(program, list(HELP[name]), **settings).output


def chat_transcript() -> str:
    """A scripted chat with the fake engine at a terminal without colours."""
    out = io.StringIO()
    terminal = Terminal(out, out, live=True, colour=False, live_errors=False)
    fake = FakeEngine()
    repl = Repl(fake, fake.talk, terminal, SamplingParams())
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            greet(fake, terminal, interactive=True)
            converse(repl, Script(terminal, CHAT))
        finally:
            os.chdir(before)
    return out.getvalue().replace(helix_mlx.__version__, "VERSION")


def write_all() -> None:
    """Write every file anew."""
    GOLDEN.mkdir(exist_ok=True)
    for name in NAMES:
        (GOLDEN / f"{name}.txt").write_text(shown(name), encoding="utf-8")


if __name__ == "__main__":
    write_all()
