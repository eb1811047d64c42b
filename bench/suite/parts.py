"""The parts of `helix-mlx bench`: each measures one thing, prints its table, and notes it in the receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from helix_mlx.bench.fixtures.llama_cpp import llama_cpp_arm
from helix_mlx.bench.fixtures.prompts import TEMPERATURES, WORKLOADS, mixed_prompts
from helix_mlx.bench.output.receipt import Receipt
from helix_mlx.bench.output.tables import table
from helix_mlx.bench.suite import acceptance, arms, exactness, kernels, latency, memory, throughput
from helix_mlx.engine.engine import Engine
from helix_mlx.models.pair import Pair
from helix_mlx.types import Notice, Progress

ROOM = 1024
"""Positions that llama.cpp has for a prompt of a workload."""


@dataclass(frozen=True)
class Scope:
    """How much is measured; None takes what suits the part."""

    quick: bool = False
    workloads: tuple[str, ...] = ()
    temperatures: tuple[float, ...] = ()
    contexts: tuple[int, ...] = ()
    repeats: int | None = None
    max_tokens: int | None = None
    rest_s: float | None = None
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What a part works with.

    Args:
        ours: Helix.
        theirs: the pair as mlx-lm loads it: the very models, or the same weights without Helix's layers.
        scope: how much.
        receipt: takes every figure.
        line: prints one.
        progress: is told how far the part is.
    """

    ours: Engine
    theirs: Pair
    scope: Scope
    receipt: Receipt
    line: Notice
    progress: Progress


def run_latency(run: Run) -> None:
    """One answer at a time, every arm beside the others."""
    scope, quick = run.scope, run.scope.quick
    plan = latency.LatencyPlan(
        workloads=scope.workloads or (("code", "edit", "chat") if quick else WORKLOADS),
        temperatures=scope.temperatures or ((0.0,) if quick else TEMPERATURES),
        contexts=scope.contexts or (None,),
        repeats=scope.repeats or (1 if quick else 3),
        max_tokens=scope.max_tokens or (32 if quick else 64),
        rest_s=(0.0 if quick else 0.05) if scope.rest_s is None else scope.rest_s,
    )
    records: list[latency.Record] = []
    try:
        room = max(ROOM, *(count or 0 for count in plan.contexts)) + plan.max_tokens
        llama_cpp = llama_cpp_arm(run.ours.pair, room, run.line)
        every = arms.all_arms(run.theirs, run.ours, few=quick, llama_cpp=llama_cpp)
        named = arms.chosen_arms(every, scope.arms)
        latency.measure(run.ours, named, plan, run.progress, records)
    finally:
        run.receipt.parts["latency"] = [record.to_json() for record in records]
    found = latency.Found(records)
    latency.show(found, run.line)
    run.receipt.ask(latency.judge(found))


def run_throughput(run: Run) -> None:
    """Several requests at once."""
    quick = run.scope.quick
    prompts = [prompt.tokens(run.ours) for prompt in mixed_prompts()]
    most = run.scope.max_tokens or (24 if quick else 48)
    figures = run.receipt.parts.setdefault("throughput", [])
    counts = (1, 4) if quick else throughput.AT_ONCE
    for number, count in enumerate(counts):
        with throughput.arms(run.ours.pair, run.theirs, count, few=quick) as named:
            rows = throughput.measure(named, count, prompts, most, run.scope.repeats or (1 if quick else 4))
        run.progress(number + 1, len(counts))
        throughput.show(rows)
        run.receipt.ask(throughput.judge(rows))
        figures += [{"at_once": count, "arm": row.name, "tokens_per_s": row.tokens_per_s} for row in rows.values()]


def run_memory(run: Run) -> None:
    """What a budget holds, and what a running engine takes."""
    run.receipt.parts["memory"], found = memory.measure(run.ours, run.scope.quick, run.progress, run.line)
    run.receipt.ask(found)


def run_exactness(run: Run) -> None:
    """Whether drafts change anything."""
    quick = run.scope.quick
    prompts, most = run.scope.repeats or (1 if quick else 3), run.scope.max_tokens or (24 if quick else 64)
    found = exactness.compare(run.ours, prompts, most, 7, run.progress)
    exactness.show(found, run.line)
    run.receipt.parts["exactness"] = [each.to_json() for each in found]
    run.receipt.ask(exactness.judge(found))


def run_acceptance(run: Run) -> None:
    """How many drafts are kept, and beside mlx-lm's own speculation."""
    scope, quick = run.scope, run.scope.quick
    temperatures = scope.temperatures or ((0.0,) if quick else TEMPERATURES)
    prompts, most = scope.repeats or (1 if quick else 4), scope.max_tokens or (32 if quick else 64)
    found = acceptance.measure(run.ours, temperatures, prompts, most, run.progress)
    acceptance.show(found, run.line)
    run.line("")
    for promise in acceptance.promises(found, run.ours.cost_table):
        run.line(promise.told)
    run.receipt.parts["acceptance"] = [each.to_json() for each in found]
    if run.ours.has_draft:
        temperatures = scope.temperatures or ((0.0,) if quick else acceptance.BESIDE_TEMPERATURES)
        asked = mixed_prompts()[:: 4 if quick else 1]
        beside = acceptance.beside_mlx_lm(run.ours, asked, temperatures, scope.repeats or (1 if quick else 3), most)
        acceptance.show_beside(beside, run.line)
        run.receipt.parts["acceptance_beside_mlx_lm"] = [row for each in beside for row in each.to_json()]


def run_kernels(run: Run) -> None:
    """What the parts of a cycle cost, and on a CPU what its kernels are worth."""
    cost_table = run.ours.cost_table
    run.line("\nCost of a cycle (ms): a target pass by number of rows, and a draft step")
    costs = [f"{cost * 1e3:.2f}" for cost in cost_table.target_s]
    table(["", *map(str, range(1, len(costs) + 1)), "draft step"], [["", *costs, f"{cost_table.draft_s * 1e3:.2f}"]])
    library = run.ours.pair.kernels.library
    if library is not None:
        run.line("")
        figures, found = kernels.products(library, run.scope.repeats or (3 if run.scope.quick else 9))
        run.receipt.parts["kernels"] = figures
        run.receipt.ask(found)
        if not run.scope.quick:
            run.receipt.ask(kernels.whole_model(library, max(3, (run.scope.repeats or 9) // 3)))
    run.progress(1, 1)


PARTS: dict[str, Callable[[Run], None]] = {
    "latency": run_latency,
    "throughput": run_throughput,
    "memory": run_memory,
    "exactness": run_exactness,
    "acceptance": run_acceptance,
    "kernels": run_kernels,
}
"""In the order in which `helix-mlx bench` runs them."""
