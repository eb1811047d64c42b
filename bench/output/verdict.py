"""The suite's three-line summary: exactness, speed and memory."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from helix_mlx.bench.suite.arms import AUTO, PLAIN, THEIRS


def verdict(parts: Mapping[str, Any], made_up: bool = False) -> list[str]:
    """The three lines.

    Args:
        parts: of a receipt: "exactness", "latency" and "memory".
        made_up: whether the weights are, and with them how many drafts are kept.
    """
    return [exact(parts["exactness"]), fast(parts["latency"], made_up), fits(parts["memory"])]


def exact(rows: list[dict[str, Any]]) -> str:
    """Whether drafts changed a token. Ties that mlx-lm's arithmetic breaks differently do not count."""
    own = [each for each in rows if each["against"] == PLAIN]
    differ = [each for each in own if not each["identical"]]
    if not differ:
        return f"Exact: all {len(own)} answers with drafts equal plain decoding, token for token."
    margins = [each["margin"] for each in differ if each["margin"] is not None]
    widest = f"; the two best tokens there were at most {max(margins):.4f} logits apart" if margins else ""
    return f"NOT exact: {len(differ)} of {len(own)} answers with drafts differ from plain decoding{widest}."


def fast(records: list[dict[str, Any]], made_up: bool) -> str:
    """The speedup of auto over plain decoding and mlx-lm."""
    told, least = [], []
    for name, arm, digits in (("plain decoding", PLAIN, 2), ("mlx-lm", THEIRS, 1)):
        if found := speedups(records, arm):
            told.append(f"{statistics.median(found.values()):.{digits}f} times {name}")
            least.append(f"{min(found.values()):.{digits}f}")
    kinds = len(speedups(records, PLAIN))
    over = f", median of {kinds} workloads and temperatures (lowest: {' and '.join(least)})" if kinds > 1 else ""
    return f"Speed: {' and '.join(told)}{over}{'; the acceptance rate is simulated' if made_up else ''}."


def fits(memory: Mapping[str, Any]) -> str:
    """Requests that fit into a fixed amount of KV memory."""
    pages, padded = memory["pages"], memory["mlx_lm"]
    times = pages["at_once"] / padded["at_once"]
    return (
        f"Memory: {times:.1f} times as many concurrent answers as mlx-lm's padded batch in the same KV memory; "
        f"{pages['unused_fraction']:.0%} of it is unused."
    )


def speedups(records: list[dict[str, Any]], other: str) -> dict[tuple[Any, ...], float]:
    """How many times as fast auto is as another arm, by workload, temperature and context: the median of pairs."""
    speeds: dict[tuple[Any, ...], dict[tuple[str, int], float]] = defaultdict(dict)
    for record in records:
        key = record["workload"], record["temperature"], record["context"]
        speeds[key][record["arm"], record["repeat"]] = record["tokens_per_s"]
    found = {}
    for key, by_arm in speeds.items():
        pairs = [
            (speed, by_arm[other, repeat])
            for (arm, repeat), speed in by_arm.items()
            if arm == AUTO and by_arm.get((other, repeat))
        ]
        if pairs:
            found[key] = statistics.median(ours / theirs for ours, theirs in pairs)
    return found
