"""The prompts that measurements run on: written for Helix, a file a workload."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

from helix_mlx.engine.engine import Engine
from helix_mlx.toml import read_toml

SYNTHETIC = "synthetic:"
"""Begins the source of a model with made-up weights."""
WORKLOADS = ("code", "edit", "chat", "prose", "json", "summary")
"""Each is a file here."""
TEMPERATURES = (0.0, 0.7, 1.0)
"""At which they are answered, where nothing else is asked for."""


@dataclass(frozen=True)
class Prompt:
    """A text, and whether it is a question for the chat template ("chat") or is continued as it stands ("code")."""

    kind: str
    text: str

    def tokens(self, engine: Engine) -> list[int]:
        """Its token ids for the engine's pair; without a chat template a question is a text like others."""
        pair, tokenizer = engine.pair, engine.pair.tokenizer
        if pair.target.source.startswith(SYNTHETIC):
            # Its tokens mean nothing. These differ from text to text and do not repeat.
            words = self.text.split()
            beginnings = (" ".join(words[: count + 1]) for count in range(len(words)))
            return [crc32(beginning.encode()) % pair.target.vocab_size for beginning in beginnings]
        if self.kind == "chat" and tokenizer.has_chat_template:
            return tokenizer.encode_chat([{"role": "user", "content": self.text}])
        return tokenizer.encode(self.text)


def mixed_prompts() -> list[Prompt]:
    """Twenty prompts, half of them questions and half code."""
    return _prompts("mixed")


def workload(name: str) -> list[Prompt]:
    """The prompts of one of WORKLOADS."""
    assert name in WORKLOADS
    return _prompts(name)


def filled(engine: Engine, name: str, index: int, context: int | None) -> list[int]:
    """The tokens of a workload's prompt; with others of it before it, or without its beginning, to be of a length.

    Args:
        engine: whose pair reads them.
        name: one of WORKLOADS.
        index: of the prompt; they begin again past the last.
        context: the number of tokens; None is the prompt as it is.
    """
    prompts = workload(name)
    tokens = prompts[index % len(prompts)].tokens(engine)
    before: list[int] = []
    while context is not None and len(before) + len(tokens) < context:
        index += 1
        before += prompts[index % len(prompts)].tokens(engine)
    if context is None:
        return tokens
    return before[: max(0, context - len(tokens))] + tokens[-context:]


def _prompts(name: str) -> list[Prompt]:
    data = read_toml(Path(__file__).with_name(f"{name}.toml"))
    return [Prompt(**row) for row in data["prompt"]]
