"""Two receipts, side by side."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helix_mlx.bench.output.receipt import FORMAT, ReceiptError

MOST_ROWS = 60
"""Figures that are shown; a soak has thousands."""
_NAMES = ("arm", "name", "workload", "temperature", "context", "at_once", "drafter", "batch", "sigma", "page_size")
"""What tells the rows of a list apart, where it is there."""


def read_receipt(file: Path) -> dict[str, Any]:
    """A receipt.

    Raises:
        ReceiptError: it is none, or of another format.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReceiptError(f"cannot read {file}; name a receipt, as `helix-mlx bench --out FILE` writes it") from error
    if not isinstance(data, dict) or data.get("what") != "helix-mlx bench":
        raise ReceiptError(f"{file} is no receipt of helix-mlx bench; name one that `--out FILE` wrote")
    if data.get("format") != FORMAT:
        raise ReceiptError(f"{file} has format {data.get('format')}, and this Helix reads {FORMAT}; measure again")
    return data


def compared(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Lines: what ran where, then every figure that both have, and the second by the first."""
    lines = [f"{name}: {_told(receipt)}" for name, receipt in (("first ", first), ("second", second))]
    ours, theirs = medians(first), medians(second)
    both = [key for key in ours if key in theirs]
    if not both:
        return [*lines, "They have no figure in common."]
    shown = both[:MOST_ROWS]
    width = max(map(len, shown))
    for key in shown:
        a, b = ours[key], theirs[key]
        ratio = f"{b / a:8.3f}" if a else "       -"
        lines.append(f"{key.ljust(width)}  {a:12.5g} {b:12.5g} {ratio}")
    if len(both) > len(shown):
        lines.append(f"... and {len(both) - len(shown)} more")
    return lines


def medians(receipt: dict[str, Any]) -> dict[str, float]:
    """Every number that was measured, by its place; of those of one place the median."""
    known = {"format", "what", "when", "complete", "command", "settings", "machine", "versions", "asked", "synthetic"}
    found: dict[str, list[float]] = defaultdict(list)
    for name, value in receipt.items():
        if name not in known | {"pair"}:
            for place, number in _numbers(name, value):
                found[place].append(number)
    return {place: statistics.median(numbers) for place, numbers in found.items()}


def _numbers(place: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield place, float(value)
    elif isinstance(value, dict):
        told = " ".join(str(value[name]) for name in _NAMES if isinstance(value.get(name), (str, int, float)))
        for name, each in value.items():
            if name not in (*_NAMES, "tokens", "repeat"):
                yield from _numbers(f"{place} {told} {name}".replace("  ", " "), each)
    elif isinstance(value, list):
        for each in value:
            yield from _numbers(place, each)


def _told(receipt: dict[str, Any]) -> str:
    machine, versions = receipt.get("machine", {}), receipt.get("versions", {})
    packages = ", ".join(f"{name} {versions[name]}" for name in ("helix-mlx", "mlx", "mlx-lm") if name in versions)
    whole = "" if receipt.get("complete") else ", broken off"
    return f"{machine.get('chip')}, {packages}, {receipt.get('when')}{whole}: {receipt.get('command')}"
