"""The prompts that measurements run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helix_mlx.engine.engine import Engine
from helix_mlx.toml import read_toml


@dataclass(frozen=True)
class Prompt:
    """A text, and whether it is a question for the chat template ("chat") or is continued as it stands ("code")."""

    kind: str
    text: str

    def tokens(self, engine: Engine) -> list[int]:
        """Its token ids for the engine's pair."""
        tokenizer = engine.pair.tokenizer
        if self.kind == "chat":
            return tokenizer.encode_chat([{"role": "user", "content": self.text}])
        return tokenizer.encode(self.text)


def mixed_prompts() -> list[Prompt]:
    """Twenty prompts, half of them questions and half code."""
    data = read_toml(Path(__file__).with_name("mixed.toml"))
    return [Prompt(**row) for row in data["prompt"]]
