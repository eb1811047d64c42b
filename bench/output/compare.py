"""Compares two receipts."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helix_mlx.bench.output.receipt import FORMAT, ReceiptError

MOST_ROWS = 60
"""Figures of one measurement that are shown, its speeds first; the latency of a whole suite has thousands."""
_NAMES = ("arm", "name", "workload", "temperature", "context", "at_once", "drafter", "batch", "sigma", "page_size")
"""What tells the rows of a list apart, where it is there."""
_NO_FIGURES = ("tokens", "repeat", "prompt_tokens", "seed", "came_s", "accepted_by_position", "cycles_by_draft_length")
"""What was asked or said, and counts by position, of which a median means nothing."""
_SPEEDS = ("tokens_per_s", "first_s", "seconds", "helix", "mlx_lm")
_ABOUT = (
    "format",
    "what",
    "when",
    "complete",
    "command",
    "settings",
    "machine",
    "versions",
    "asked",
    "synthetic",
    "pair",
)
"""What a receipt says beside its figures."""


def read_receipt(file: Path) -> dict[str, Any]:
    """A receipt.

    Raises:
        ReceiptError: it is none, or of another format.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReceiptError(f"cannot read {file}; give a receipt written by `helix-mlx bench --out FILE`") from error
    if not isinstance(data, dict) or data.get("what") != "helix-mlx bench":
        raise ReceiptError(f"{file} is not a receipt; give one written by `helix-mlx bench --out FILE`")
    if data.get("format") != FORMAT:
        raise ReceiptError(
            f"{file} has format {data.get('format')}, but this version reads {FORMAT}; run the measurement again"
        )
    return data


def compared(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Lines: what ran where, then every figure that both have, and the second by the first."""
    lines = [f"{name}: {_told(receipt)}" for name, receipt in (("first ", first), ("second", second))]
    left = 0
    rows: list[tuple[str, float, float]] = []
    for part in [name for name in first if name in second and name not in _ABOUT]:
        ours, theirs = medians(part, first[part]), medians(part, second[part])
        both = sorted((key for key in ours if key in theirs), key=lambda key: key.split()[-1] not in _SPEEDS)
        rows += [(key, ours[key], theirs[key]) for key in both[:MOST_ROWS]]
        left += len(both[MOST_ROWS:])
    if not rows:
        return [*lines, "They have no figure in common."]
    width = max(len(key) for key, _, _ in rows)
    lines += ["", f"{'':{width}}  {'first':>12} {'second':>12} {'ratio':>8}"]
    for key, a, b in rows:
        lines.append(f"{key:{width}}  {a:12.5g} {b:12.5g} {f'{b / a:.3f}' if a else '-':>8}")
    return [*lines, f"... and {left:,} more in the files"] if left else lines


def medians(part: str, value: Any) -> dict[str, float]:
    """Every number of a part of a receipt, by its place; of those of one place the median."""
    found: dict[str, list[float]] = defaultdict(list)
    for place, number in _numbers(part, value):
        found[place].append(number)
    return {place: statistics.median(numbers) for place, numbers in found.items()}


def _numbers(place: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield place, float(value)
    elif isinstance(value, dict):
        told = [str(value[name]) for name in _NAMES if isinstance(value.get(name), (str, int, float))]
        for name, each in value.items():
            if name not in (*_NAMES, *_NO_FIGURES):
                yield from _numbers(" ".join([place, *told, name]), each)
    elif isinstance(value, list):
        for each in value:
            yield from _numbers(place, each)


def _told(receipt: dict[str, Any]) -> str:
    machine, versions = receipt.get("machine", {}), receipt.get("versions", {})
    packages = ", ".join(f"{name} {versions[name]}" for name in ("helix-mlx", "mlx", "mlx-lm") if name in versions)
    whole = "" if receipt.get("complete") else ", broken off"
    return f"{machine.get('chip')}, {packages}, {receipt.get('when')}{whole}: {receipt.get('command')}"
