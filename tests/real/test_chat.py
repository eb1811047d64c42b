"""A chat with a real model at a terminal."""

from __future__ import annotations

import os
from pathlib import Path

from helix_mlx.models.files import holds_model
from helix_mlx.models.gguf.folder import convert_gguf
from helix_mlx.models.pairs import DEFAULT
from tests.cli.test_chat import Session
from tests.real.files import smollm2_wheel


def test_the_default_pair_knows_the_capital_of_france(smollm2: Path, tmp_path: Path) -> None:
    folder = smollm2_wheel().folder
    if not holds_model(folder):  # as if the chat had fetched it: the wheel is here already
        convert_gguf([smollm2], folder)
    words = ("chat", "--pair", DEFAULT, "--temperature", "0", "--max-tokens", "24", "--no-color")
    chat = Session(words, {**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path)}, "helix_mlx")
    try:
        chat.expect("> ")
        chat.type("What is the capital of France?\n")
        chat.expect("Paris")
        chat.expect("> ")
        chat.type("/quit\n")
        assert chat.end()[0] == 0
    finally:
        chat.process.kill()
        chat.process.wait()
        os.close(chat.keyboard)
