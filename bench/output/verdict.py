"""What the suite came to, for the user: exact or not, how fast, and how much fits. Three lines."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from helix_mlx.bench.suite.arms import AUTO, PLAIN, THEIRS


def verdict(parts: Mapping[str, Any]) -> list[str]:
    """The three lines.

    Args:
        parts: of a receipt: "exactness", "latency" and "memory".
    """
    own = [each for each in parts["exactness"] if each["against"] == PLAIN]
    same = sum(each["identical"] for each in own)
    exact = f"Exact: {same} of {len(own)} answers with drafts are plain decoding's, token for token."
    plain, theirs = (speedups(parts["latency"], arm) for arm in (PLAIN, THEIRS))
    fast = (
        f"Speed: {statistics.median(plain.values()):.2f} times plain decoding and "
        f"{statistics.median(theirs.values()):.1f} times mlx-lm, the median of {len(plain)} kinds of answers "
        f"(the least {min(plain.values()):.2f}, {min(theirs.values()):.1f})."
    )
    pages, padded = parts["memory"]["pages"]["at_once"], parts["memory"]["mlx_lm"]["at_once"]
    fits = (
        f"Memory: {pages / padded:.1f} times as many answers at once as a padded batch, "
        f"{parts['memory']['pages']['unused_fraction']:.0%} of it unused."
    )
    return [exact, fast, fits]


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
