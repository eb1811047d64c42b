"""Plots a receipt: tokens per second by workload and arm. Readable on light and dark backgrounds."""

from __future__ import annotations

import io
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from helix_mlx.bench.output.receipt import ReceiptError, write_output
from helix_mlx.bench.suite.arms import AUTO, PLAIN, THEIRS

COLOURS = {
    "mlx-lm plain": "#8a8f98",
    "mlx-lm's best": "#5f6a7d",
    "helix plain": "#7fb2e5",
    "helix's best fixed": "#3b82c4",
    "helix auto": "#e0752d",
}
INK = "#808690"
"""A grey for light and dark backgrounds."""


def check_matplotlib() -> None:
    """Check that matplotlib is installed, before anything is measured.

    Raises:
        ReceiptError: there is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ReceiptError("a plot needs matplotlib; run: pip install 'helix-mlx[plot]'") from None


def draw(receipt: dict[str, Any], file: Path) -> None:
    """Draw the latency part of a receipt.

    Raises:
        ReceiptError: there is none in it, matplotlib is missing, or the file cannot be written.
    """
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = receipt.get("latency")
    if not records:
        raise ReceiptError("there are no speeds to plot; run bench or bench latency")
    panels = bars(records)
    figure = Figure(figsize=(max(7.0, 1.5 + 1.35 * max(map(len, panels.values()))), 0.9 + 2.7 * len(panels)), dpi=160)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    for number, (name, groups) in enumerate(panels.items()):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        _panel(axes, name, groups)
    title = f"{receipt['pair'].get('name', '')} on {receipt['machine']['chip']} ({receipt['machine']['device']})"
    inch = 1 / figure.get_figheight()
    figure.suptitle(title, color=INK, fontsize=11, x=0.015, y=1 - 0.08 * inch, ha="left")
    marks, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        marks, names, loc="upper left", bbox_to_anchor=(0.0, 1 - 0.3 * inch), ncols=len(COLOURS), frameon=False,
        fontsize=8, labelcolor=INK, columnspacing=1.2,
    )  # fmt: skip
    if receipt.get("synthetic"):
        figure.text(0.015, 0.06 * inch, "SYNTHETIC: random weights, acceptance made up", color="#d9534f", fontsize=9)
    figure.tight_layout(rect=(0, 0.2 * inch, 1, 1 - 0.55 * inch))
    out = io.BytesIO()
    figure.savefig(out, format="png", transparent=True)
    write_output(file, out.getvalue())


def bars(records: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, tuple[float, float, float]]]]:
    """Panel, workload, bar: the median tokens a second, and the least and the most.

    The best of several arms is the one whose median is highest.
    """
    speeds: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        panel = f"temperature {record['temperature']:g}"
        panel += f", context {record['context']}" if record["context"] else ""
        speeds[panel, record["workload"]][record["arm"]].append(record["tokens_per_s"])
    found: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = defaultdict(dict)
    for (panel, workload), arms in speeds.items():
        theirs = [arm for arm in arms if arm.startswith("mlx-lm")]
        fixed = [arm for arm in arms if arm.startswith("helix") and arm != AUTO]
        chosen = {"mlx-lm plain": THEIRS, "helix plain": PLAIN, "helix auto": AUTO}
        chosen |= {"mlx-lm's best": _best(arms, theirs), "helix's best fixed": _best(arms, fixed)}
        found[panel][workload] = {
            name: (statistics.median(arms[arm]), min(arms[arm]), max(arms[arm]))
            for name in COLOURS
            if (arm := chosen[name]) in arms
        }
    return dict(found)


def _best(arms: dict[str, list[float]], names: list[str]) -> str:
    return max(names, key=lambda name: statistics.median(arms[name]), default="")


def _panel(axes: Any, name: str, groups: dict[str, dict[str, tuple[float, float, float]]]) -> None:
    width = 0.8 / len(COLOURS)
    for place, (bar, colour) in enumerate(COLOURS.items()):
        at = [index + (place - (len(COLOURS) - 1) / 2) * width for index in range(len(groups))]
        figures = [group.get(bar, (0.0, 0.0, 0.0)) for group in groups.values()]
        spread = [[median - low for median, low, _ in figures], [high - median for median, _, high in figures]]
        axes.bar(at, [median for median, _, _ in figures], width * 0.92, color=colour, label=bar)
        axes.errorbar(at, [median for median, _, _ in figures], yerr=spread, fmt="none", ecolor=INK, elinewidth=0.8)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_ylabel("tokens/s", color=INK)
    axes.set_title(name, color=INK, fontsize=10, loc="left")
    axes.patch.set_alpha(0.0)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
