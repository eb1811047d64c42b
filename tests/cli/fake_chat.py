"""The real program on a fake engine, in a terminal of its own: what the terminal tests start."""

from __future__ import annotations

import fcntl
import os
import sys
import termios

import helix_mlx.cli.chat
from helix_mlx.cli import main
from tests.cli.fakes import FakeEngine


def run() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    setattr(helix_mlx.cli.chat, "open_engine", lambda options, terminal: FakeEngine())  # noqa: B010
    main(["chat", *sys.argv[1:]])


if __name__ == "__main__":
    run()
