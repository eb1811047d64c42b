"""Exact speculative decoding of language models on Apple's MLX, with the KV of both models in one paged store.

>>> import helix_mlx
>>> with helix_mlx.load("tiny") as engine:
...     print(engine.generate("import os\\n").text)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from helix_mlx.config import EngineConfig
    from helix_mlx.engine.conversation import Conversation
    from helix_mlx.engine.engine import Engine, load
    from helix_mlx.errors import HelixError
    from helix_mlx.request import Chunk, Completion, SamplingParams, Stats

__all__ = [
    "Chunk",
    "Completion",
    "Conversation",
    "Engine",
    "EngineConfig",
    "HelixError",
    "SamplingParams",
    "Stats",
    "__version__",
    "load",
]

_HOMES = {
    "Chunk": "helix_mlx.request",
    "Completion": "helix_mlx.request",
    "Conversation": "helix_mlx.engine.conversation",
    "Engine": "helix_mlx.engine.engine",
    "EngineConfig": "helix_mlx.config",
    "HelixError": "helix_mlx.errors",
    "SamplingParams": "helix_mlx.request",
    "Stats": "helix_mlx.request",
    "load": "helix_mlx.engine.engine",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: MLX takes a while, and much of the command line needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
