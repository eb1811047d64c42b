"""The real program on a fake engine; at a terminal, it is made the program's own. What the chat tests start."""

from __future__ import annotations

import fcntl
import os
import sys
import termios

import helix_mlx.cli.chat
from helix_mlx.cli import main
from tests.cli.fakes import FakeEngine


def run() -> None:
    if os.isatty(0):
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    setattr(helix_mlx.cli.chat, "open_engine", lambda options, terminal: FakeEngine())  # noqa: B010
    main(["chat", *sys.argv[1:]])


if __name__ == "__main__":
    run()
