"""Memory: how much a KV budget holds, compared with mlx-lm's batch cache, and what a running engine uses."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import mlx.core as mx

from helix_mlx.bench.fixtures.prompts import filled
from helix_mlx.bench.output.tables import Asked, table
from helix_mlx.bench.studies.capacity import (
    ASKED_TIMES,
    ASKED_WASTE,
    LONGEST,
    Case,
    draw,
    padded_at_once,
    pages_at_once,
)
from helix_mlx.engine.engine import Engine
from helix_mlx.types import Notice, Progress

SIGMA, PAGE_SIZE = 0.7, 16


def measure(engine: Engine, quick: bool, progress: Progress, line: Notice) -> tuple[Any, list[Asked]]:
    """Print both; returns the figures and what was asked for."""
    reservations = 16 if quick else 64
    steps, warm_up = (600, 300) if quick else (2400, 1000)
    case = Case(SIGMA, PAGE_SIZE, 0, reservations * LONGEST, steps, warm_up, 0)
    lengths = draw(case)
    ours = pages_at_once(case, lengths)
    progress(1, 3)
    theirs = padded_at_once(case, lengths)
    progress(2, 3)
    running = _running(engine, 4 if quick else 8)
    progress(3, 3)
    line(f"\nConcurrent answers in {case.budget:,} positions, contexts up to {LONGEST:,} (replay of the scheduler)")
    rows = [
        ["Helix's pages", f"{ours.at_once:.0f}", f"{ours.at_once / reservations:.2f}", f"{ours.unused_fraction:.1%}"],
        [
            "mlx-lm's batch",
            f"{theirs.at_once:.0f}",
            f"{theirs.at_once / reservations:.2f}",
            f"{theirs.unused_fraction:.1%}",
        ],
        ["reservations", f"{reservations}", "1.00", "-"],
    ]
    table(["", "at once", "by reservations", "held in vain"], rows)
    line("\nThis pair with several answers at once (MB)")
    table(["weights", "pages", "tails", "peak"], [[f"{running[key] / 1e6:.1f}" for key in _KEYS]])
    times = ours.at_once / reservations
    found = [
        Asked("answers at once, by reservations", f"at least {ASKED_TIMES:g}", f"{times:.2f}", times >= ASKED_TIMES),
        Asked(
            "memory held in vain",
            f"below {ASKED_WASTE:.0%}",
            f"{ours.unused_fraction:.2%}",
            ours.unused_fraction < ASKED_WASTE,
        ),
    ]
    return {"case": asdict(case), "pages": asdict(ours), "mlx_lm": asdict(theirs), "running": running}, found


_KEYS = ("weights_bytes", "pages_bytes", "tail_bytes", "peak_bytes")


def _running(engine: Engine, at_once: int) -> dict[str, int]:
    """Bytes, while so many answers run."""
    mx.reset_peak_memory()
    handles = [
        engine.submit(filled(engine, "code", number, None), max_tokens=32, temperature=0) for number in range(at_once)
    ]
    tails = 0
    for _ in handles[0]:
        tails = max(tails, engine.metrics().tail_bytes)
    for handle in handles:
        handle.result()
    pair = engine.pair
    return {
        "weights_bytes": pair.target.nbytes + (pair.draft.nbytes if pair.draft else 0),
        "pages_bytes": engine.memory().bytes,
        "tail_bytes": tails,
        "peak_bytes": mx.get_peak_memory(),
    }
