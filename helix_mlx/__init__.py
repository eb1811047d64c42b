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
    from helix_mlx.engine.handle import Handle
    from helix_mlx.engine.memory import MemoryReport
    from helix_mlx.engine.metrics import Metrics
    from helix_mlx.errors import (
        ClosedError,
        HelixError,
        LogitsError,
        MemoryBudgetError,
        ModelError,
        PairError,
        PromptError,
        SettingsError,
    )
    from helix_mlx.models.pair import Pair
    from helix_mlx.request import Chunk, Completion, Request, SamplingParams, Stats

__all__ = [
    "Chunk",
    "ClosedError",
    "Completion",
    "Conversation",
    "Engine",
    "EngineConfig",
    "Handle",
    "HelixError",
    "LogitsError",
    "MemoryBudgetError",
    "MemoryReport",
    "Metrics",
    "ModelError",
    "Pair",
    "PairError",
    "PromptError",
    "Request",
    "SamplingParams",
    "SettingsError",
    "Stats",
    "__version__",
    "load",
]

_MODULES = {
    "helix_mlx.config": ("EngineConfig",),
    "helix_mlx.engine.conversation": ("Conversation",),
    "helix_mlx.engine.engine": ("Engine", "load"),
    "helix_mlx.engine.handle": ("Handle",),
    "helix_mlx.engine.memory": ("MemoryReport",),
    "helix_mlx.engine.metrics": ("Metrics",),
    "helix_mlx.errors": (
        "ClosedError",
        "HelixError",
        "LogitsError",
        "MemoryBudgetError",
        "ModelError",
        "PairError",
        "PromptError",
        "SettingsError",
    ),
    "helix_mlx.models.pair": ("Pair",),
    "helix_mlx.request": ("Chunk", "Completion", "Request", "SamplingParams", "Stats"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: MLX takes a while, and much of the command line needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
