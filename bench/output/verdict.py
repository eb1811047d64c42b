"""The suite's three-line summary: exactness, speed and memory."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from helix_mlx.bench.suite.arms import AUTO, PLAIN


def verdict(parts: Mapping[str, Any], made_up: bool = False) -> list[str]:
    """The three lines; one whose part has no figures says so.

    Args:
        parts: of a receipt, any of them: "exactness", "latency" and "memory" count.
        made_up: whether the weights are, and with them how many drafts are kept.
    """
    memory = parts.get("memory")
    return [
        f"Exactness: {exact(parts.get('exactness') or [])}.",
        f"Speed: {fast(parts.get('latency') or [], made_up)}.",
        f"Memory: {fits(memory) if memory else NOT_MEASURED}.",
    ]


NOT_MEASURED = "not measured"


def exact(rows: list[dict[str, Any]]) -> str:
    """Whether drafts changed a token. Ties that mlx-lm's arithmetic breaks differently do not count."""
    own = [each for each in rows if each["against"] == PLAIN]
    differ = [each for each in own if not each["identical"]]
    if not own:
        return NOT_MEASURED
    if not differ:
        return f"all {len(own)} answers with drafts equal those without, token for token"
    # A margin tells how near a tie was only where the largest logit decides.
    margins = [each["margin"] for each in differ if not each["temperature"] and each["margin"] is not None]
    widest = f"; the two best tokens there were at most {max(margins):.4f} logits apart" if margins else ""
    return f"NOT exact, {len(differ)} of {len(own)} answers with drafts differ from those without{widest}"


def fast(records: list[dict[str, Any]], made_up: bool) -> str:
    """The speedup of auto over plain decoding and mlx-lm."""
    told, least = [], []
    others: list[tuple[str, Callable[[str], bool]]] = [
        ("without drafts", lambda arm: arm == PLAIN),
        ("mlx-lm at its fastest", lambda arm: arm.startswith("mlx-lm")),
    ]
    cases = 0
    for name, is_other in others:
        if found := speedups(records, is_other):
            told.append(f"{_times(statistics.median(found.values()))} times as fast as {name}")
            least.append(_times(min(found.values())))
            cases = max(cases, len(found))
    if not told:
        return NOT_MEASURED
    over = f" (medians of {cases} cases; lowest: {' and '.join(least)})" if cases > 1 else ""
    return f"{', and '.join(told)}{over}{'; the acceptance rate is simulated' if made_up else ''}"


def fits(memory: Mapping[str, Any]) -> str:
    """Requests that fit into a fixed amount of KV memory."""
    pages, padded = memory["pages"], memory["mlx_lm"]
    unused = f"{pages['unused_fraction']:.0%} of what they hold is unused"
    if not padded["at_once"]:
        return (
            f"{pages['at_once']:.0f} concurrent answers, where mlx-lm's padded batch holds none (simulated); {unused}"
        )
    times = _times(pages["at_once"] / padded["at_once"])
    return f"{times} times as many concurrent answers as mlx-lm's padded batch in equal KV memory (simulated); {unused}"


def speedups(records: list[dict[str, Any]], is_other: Callable[[str], bool]) -> dict[tuple[Any, ...], float]:
    """How many times as fast auto is as the fastest of some other arms: by case, the median of pairs of answers.

    A case is a workload, a temperature and a context; one in which either side has no answer is left out.
    """
    speeds: dict[tuple[Any, ...], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        key = record["workload"], record["temperature"], record["context"]
        speeds[key][record["arm"]][record["repeat"]] = record["tokens_per_s"]
    found = {}
    for key, by_arm in speeds.items():
        others = [by_repeat for arm, by_repeat in by_arm.items() if is_other(arm)]
        theirs = max(others, key=lambda by_repeat: statistics.median(by_repeat.values()), default={})
        ours = by_arm.get(AUTO, {})
        if pairs := [(ours[repeat], theirs[repeat]) for repeat in ours if theirs.get(repeat)]:
            found[key] = statistics.median(own / its for own, its in pairs)
    return found


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
