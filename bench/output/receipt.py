"""A receipt: the JSON file of a benchmark, with machine, versions, settings and every figure."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx

from helix_mlx import __version__
from helix_mlx.bench.output.tables import Asked
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import HelixError
from helix_mlx.files import write_beside
from helix_mlx.kernels.device import chip_name

FORMAT = 1
"""Of the file. What reads receipts refuses another one."""
PACKAGES = ("mlx", "mlx-lm", "numpy", "transformers")


class ReceiptError(HelixError):
    """A receipt or a picture cannot be written; the message says why."""


@dataclass
class Receipt:
    """What was run and its results, complete or up to an interruption.

    Args:
        command: the words of the command line that ran it.
        settings: of the run.
        synthetic: how the weights were made up, where they were; None for weights that were trained.
    """

    command: str
    settings: dict[str, Any]
    synthetic: str | None = None
    pair: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    complete: bool = False

    def describe(self, engine: Engine) -> None:
        """Note the pair that runs, and the cost table that its draft lengths go by."""
        pair = engine.pair
        self.pair = {
            "name": pair.name,
            "target": pair.target.source,
            "target_bytes": pair.target.nbytes,
            "draft": pair.draft.source if pair.draft else None,
            "draft_bytes": pair.draft.nbytes if pair.draft else None,
            "quantization": pair.target.config.get("quantization"),
            "kernels": pair.kernels.settings(),
            "cost_table": asdict(engine.cost_table),
        }

    def ask(self, lines: Iterable[Asked]) -> None:
        """Keep what was asked for."""
        self.asked += lines

    def to_json(self) -> dict[str, Any]:
        """The whole file."""
        parts = {"complete": self.complete, "synthetic": self.synthetic, "pair": self.pair, **self.parts}
        return document(self.command, self.settings, parts, self.asked)


def document(
    command: str, settings: Mapping[str, Any], parts: Mapping[str, Any], asked: Iterable[Asked]
) -> dict[str, Any]:
    """A receipt, ready for JSON: what ran where, in which versions, and every figure."""
    return {
        "format": FORMAT,
        "what": "helix-mlx bench",
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "complete": True,
        "command": command,
        "settings": dict(settings),
        "machine": machine(),
        "versions": {"helix-mlx": __version__, **{name: metadata.version(name) for name in PACKAGES}},
        "asked": [asdict(line) for line in asked],
        **parts,
    }


def machine() -> dict[str, Any]:
    """The machine that a figure was measured on."""
    return {
        "chip": chip_name(),
        "device": "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu",
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def write_output(file: Path, data: bytes) -> None:
    """Write what a benchmark made: whole, or not at all.

    Raises:
        ReceiptError: it cannot be written.
    """
    try:
        write_beside(file, data, mode=0o644)
    except OSError as error:
        advice = "" if file.parent.is_dir() else "; choose an existing folder"
        raise ReceiptError(f"cannot write {file}: {error.strerror}{advice}") from error
