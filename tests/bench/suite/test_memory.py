"""What a running engine takes, and the figures of the replay beside it."""

from __future__ import annotations

from typing import Any

import pytest

from helix_mlx.bench.studies.capacity import LONGEST, Found
from helix_mlx.bench.suite import memory
from helix_mlx.engine.engine import Engine


@pytest.mark.parametrize(("unused", "at_once", "met"), [(0.02, 80.0, [True, True]), (0.5, 20.0, [False, False])])
def test_both_are_told_and_judged(
    unused: float, at_once: float, met: list[bool], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_of: list[Any] = []

    def pages(case: Any, lengths: Any) -> Found:
        asked_of.append(case)
        return Found(at_once, unused)

    monkeypatch.setattr(memory, "pages_at_once", pages)
    monkeypatch.setattr(memory, "padded_at_once", lambda case, lengths: Found(10.0, 0.6))
    told: list[tuple[int, int]] = []
    lines: list[str] = []
    figures, asked = memory.measure(engine, True, lambda done, total: told.append((done, total)), lines.append)
    assert asked_of[0].budget == 16 * LONGEST
    assert (figures["pages"]["at_once"], figures["mlx_lm"]["at_once"]) == (at_once, 10.0)
    assert [line.met for line in asked] == met
    assert told == [(1, 3), (2, 3), (3, 3)]
    running, pair = figures["running"], engine.pair
    assert pair.draft is not None
    assert running["weights_bytes"] == pair.target.nbytes + pair.draft.nbytes
    assert running["pages_bytes"] == engine.memory().bytes
    assert running["tail_bytes"] > 0
    assert running["peak_bytes"] > 0
