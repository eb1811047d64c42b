"""Each part of the suite puts its figures where the receipt and the verdict look for them."""

from __future__ import annotations

import pytest

from helix_mlx.bench.output.receipt import Receipt
from helix_mlx.bench.suite import acceptance, exactness
from helix_mlx.bench.suite.arms import AUTO, PLAIN
from helix_mlx.bench.suite.parts import PARTS, Run, Scope
from helix_mlx.engine.engine import Engine

SCOPE = Scope(quick=True, workloads=("code",), repeats=1, max_tokens=4, arms=("helix K=2",))


def measured(engine: Engine, *names: str, scope: Scope = SCOPE) -> tuple[Receipt, list[str]]:
    lines: list[str] = []
    receipt = Receipt("bench", {})
    run = Run(engine, engine.pair, scope, receipt, lines.append, lambda *_: None)
    for name in names:
        PARTS[name](run)
    return receipt, lines


def test_latency_keeps_plain_and_auto_beside_the_arms_that_were_asked_for(engine: Engine) -> None:
    receipt, _ = measured(engine, "latency")
    assert {row["arm"] for row in receipt.parts["latency"]} == {PLAIN, AUTO, "helix K=2"}
    assert {row["workload"] for row in receipt.parts["latency"]} == {"code"}
    assert [line.what for line in receipt.asked] == [
        "auto by helix plain, on every workload", "auto by best fixed, on every workload"
    ]  # fmt: skip


def test_throughput_has_a_row_for_every_number_at_once_and_arm(engine: Engine) -> None:
    rows = measured(engine, "throughput")[0].parts["throughput"]
    assert [row["at_once"] for row in rows] == sorted(row["at_once"] for row in rows)
    for count in (1, 4):
        assert len([row for row in rows if row["at_once"] == count and row["tokens_per_s"]]) == 3


def test_exactness_and_acceptance_are_of_every_workload(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (exactness, acceptance):
        monkeypatch.setattr(part, "WORKLOADS", ("code", "chat"))
    receipt, lines = measured(engine, "exactness", "acceptance")
    parts = receipt.parts
    assert len({row["workload"] for row in parts["exactness"]}) == 2
    assert all(row["identical"] for row in parts["exactness"])
    assert {row["drafter"] for row in parts["acceptance"]} == {"model", "ngram"}
    assert [row["arm"] for row in parts["acceptance_beside_mlx_lm"]] == ["mlx-lm", "helix"]
    assert any("drafts per cycle would be" in line or "drafting would not pay off" in line for line in lines)


def test_without_kernels_only_the_cycle_is_told(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    receipt, _ = measured(engine, "kernels")
    assert "kernels" not in receipt.parts
    assert "draft step" in capsys.readouterr().out
