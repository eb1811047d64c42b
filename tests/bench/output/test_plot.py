from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.bench.output.plot import bars, check_matplotlib, draw
from helix_mlx.bench.output.receipt import ReceiptError
from helix_mlx.bench.suite.arms import AUTO, PLAIN, THEIRS


def record(workload: str, arm: str, speed: float, temperature: float = 0.0) -> dict[str, Any]:
    return {
        "workload": workload, "arm": arm, "tokens_per_s": speed, "temperature": temperature, "context": None
    }  # fmt: skip


RECORDS = [
    record(workload, arm, speed)
    for workload in ("code", "chat")
    for arm, speed in (
        (THEIRS, 10.0),
        ("mlx-lm K=2", 12.0),
        (PLAIN, 20.0),
        ("helix K=2", 25.0),
        (AUTO, 30.0),
        (AUTO, 40.0),
    )
]


def test_a_bar_is_a_median_and_the_best_is_the_best() -> None:
    panels = bars(RECORDS)
    assert list(panels) == ["temperature 0"]
    assert panels["temperature 0"]["code"] == {
        "mlx-lm plain": (10.0, 10.0, 10.0),
        "mlx-lm's best": (12.0, 12.0, 12.0),
        "helix plain": (20.0, 20.0, 20.0),
        "helix's best fixed": (25.0, 25.0, 25.0),
        "helix auto": (35.0, 30.0, 40.0),
    }


def test_an_arm_that_did_not_run_has_no_bar() -> None:
    assert "mlx-lm plain" not in bars([record("code", AUTO, 1.0)])["temperature 0"]["code"]


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    receipt = {"latency": RECORDS, "pair": {"name": "x"}, "machine": {"chip": "y", "device": "cpu"}, "synthetic": "z"}
    draw(receipt, tmp_path / "speeds.png")
    assert (tmp_path / "speeds.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ReceiptError, match="no speeds to plot"):
        draw({**receipt, "latency": []}, tmp_path / "other.png")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ReceiptError, match=r"pip install 'helix-mlx\[plot\]'"):
        check_matplotlib()
