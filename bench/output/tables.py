"""Printed output of measurements: tables, and results compared with Helix's own limits."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

from helix_mlx.types import Notice


@dataclass(frozen=True)
class Asked:
    """A required figure, the measured one, and whether the requirement is met."""

    what: str
    asked: str
    measured: str
    met: bool


def show_limits(
    found: Iterable[Asked],
    line: Notice = click.echo,
    words: tuple[str, str] = ("NOT MET", "met    "),
) -> bool:
    """Print each limit beside what was measured.

    Args:
        found: what was asked for.
        line: prints one.
        words: before a limit that is not met, and before one that is.

    Returns:
        Whether all are met.
    """
    limits = list(found)
    line("\nHelix's own limits" if limits else "\nHelix sets no limits for this.")
    for each in limits:
        line(f"{words[each.met]}  {each.what}: required {each.asked}, measured {each.measured}")
    return all(each.met for each in limits)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their heads: the first column to the left, the others to the right."""
    shown = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(heads), *shown]) for column in range(len(heads))]
    for line in [list(heads), *shown]:
        first, *others = (cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))  # noqa: B905
        click.echo("  ".join([first, *others]).rstrip())


@dataclass(frozen=True)
class Spread:
    """The median of some figures, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """Of at least one figure; of fewer than four, from the least to the greatest."""
        if len(figures) < 4:
            return cls(statistics.median(figures), min(figures), max(figures))
        low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"
