"""Records a real chat with the built-in pair in a pseudo-terminal, and draws it: `python docs/record_chat.py`.

What is drawn is what the program wrote; nothing is made up or touched up.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

QUESTIONS = ("What is Helix?", "What is a page?", "/reset", "/draft off", "What is Helix?", "/quit")
COLUMNS = 92
PROMPT = ">\x1b[0m "
PICTURE = Path(__file__).with_name("chat.svg")
CHARACTER_W, LINE_H, MARGIN, BAR_H = 8.4, 20, 18, 34
COLOURS = {"": "#d6deeb", "1": "#ffffff", "2": "#7f8fa6", "31": "#ff6b6b", "36": "#4fd6d2"}
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace"


@dataclass
class Screen:
    """A terminal that knows line ends, wiped lines, colours and wrapping, which is all that a chat writes."""

    lines: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    colour: str = ""

    def feed(self, text: str) -> None:
        """Take what a program wrote."""
        for control, plain in re.findall(r"(\r?\x1b\[[?0-9;]*[A-Za-z]|[\r\n\x07])|([^\x1b\r\n\x07]+)", text):
            if control == "\n":
                self.lines.append([])
            elif control == "\r\x1b[K":  # a progress bar is wiped
                self.lines[-1].clear()
            elif control.endswith("m"):
                code = control[2:-1]
                self.colour = "" if code in ("", "0") else code
            for character in plain:
                if len(self.lines[-1]) == COLUMNS:
                    self.lines.append([])
                self.lines[-1].append((character, self.colour))

    def runs(self) -> Iterator[tuple[int, int, str, str]]:
        """Line, column, text and colour of each stretch of one colour."""
        for row, line in enumerate(self.lines):
            start = 0
            for end in range(1, len(line) + 1):
                if end == len(line) or line[end][1] != line[start][1]:
                    text = "".join(character for character, _ in line[start:end])
                    if text.strip():
                        yield row, start, text, line[start][1]
                    start = end


def record() -> str:
    """Hold the chat; return everything that the terminal was sent."""
    keyboard, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    command = [sys.executable, "-c", "from helix_mlx.cli import main; main(['chat', 'tiny'])"]
    environment = {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": os.devnull, "INPUTRC": os.devnull}
    environment.pop("NO_COLOR", None)
    chat = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=environment)
    os.close(inside)
    shown = ""
    for asked, question in enumerate(QUESTIONS, 1):
        while shown.count(PROMPT) < asked:
            shown += os.read(keyboard, 4096).decode()
        time.sleep(0.5)  # a little after the prompt, when readline listens
        os.write(keyboard, f"{question}\n".encode())
    try:
        while piece := os.read(keyboard, 4096):
            shown += piece.decode()
    except OSError:  # Linux says so when the program has closed its end
        pass
    chat.wait()
    return shown


def draw(screen: Screen) -> str:
    """The screen as an SVG picture with its own dark ground, which reads on light and dark pages."""
    width = COLUMNS * CHARACTER_W + 2 * MARGIN
    height = len(screen.lines) * LINE_H + BAR_H + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="A chat with the built-in pair">',
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="10" fill="#0f1722" stroke="#3a4658"/>',
        *(f'<circle cx="{MARGIN + 18 * i}" cy="17" r="5.5" fill="#3a4658"/>' for i in range(3)),
        f'<g font-family="{FONT}" font-size="14" xml:space="preserve">',
    ]
    for row, column, text, colour in screen.runs():
        x, y = MARGIN + column * CHARACTER_W, BAR_H + 14 + row * LINE_H
        parts.append(
            f'<text x="{x:.1f}" y="{y}" fill="{COLOURS[colour]}" textLength="{len(text) * CHARACTER_W:.1f}" '
            f'style="white-space: pre">{escape(text)}</text>'
        )
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def main() -> None:
    """Record, draw, and write the picture beside this script."""
    screen = Screen()
    screen.feed(record().partition("/quit")[0].rpartition("\n")[0])
    PICTURE.write_text(draw(screen), encoding="utf-8")
    print(f"{PICTURE.name}: {len(screen.lines)} lines")


if __name__ == "__main__":
    main()
