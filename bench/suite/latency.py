"""Single requests: tokens per second, time to first token and between tokens, for every arm.

In each repeat every arm answers the same prompt, in an order that turns, with a rest before each: a hot chip punishes
wide passes. A ratio is that of two answers of one repeat.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from helix_mlx.bench.fixtures.answers import Answer, Arm, Ask
from helix_mlx.bench.fixtures.prompts import filled
from helix_mlx.bench.output.tables import Asked, Spread, table
from helix_mlx.bench.suite.arms import AUTO, LLAMA_CPP, PLAIN, THEIRS
from helix_mlx.engine.engine import Engine
from helix_mlx.types import Notice, Progress

Key = tuple[str, float, int | None]
"""A workload, a temperature, and a context or None for the prompt's own."""
NEVER_BELOW, NEAR_BEST = 0.97, 0.95
"""What auto has to reach of plain decoding, and of the best fixed choice."""


@dataclass(frozen=True)
class LatencyPlan:
    """What is measured.

    Args:
        workloads: names of `bench.prompts.WORKLOADS`.
        temperatures: of the answers.
        contexts: lengths of the prompts; None is each prompt's own.
        repeats: prompts of each workload.
        max_tokens: longest answer.
        rest_s: seconds before each answer.
    """

    workloads: tuple[str, ...]
    temperatures: tuple[float, ...]
    contexts: tuple[int | None, ...]
    repeats: int
    max_tokens: int
    rest_s: float

    @property
    def keys(self) -> list[Key]:
        """Every combination."""
        return [(w, t, c) for c in self.contexts for t in self.temperatures for w in self.workloads]


@dataclass(frozen=True)
class Record:
    """One answer of one arm."""

    workload: str
    temperature: float
    context: int | None
    repeat: int
    prompt_tokens: int
    arm: str
    answer: Answer

    @property
    def key(self) -> Key:
        """What it belongs to."""
        return self.workload, self.temperature, self.context

    def to_json(self) -> dict[str, Any]:
        """For a receipt: figures, and the tokens themselves."""
        answer = self.answer
        figures = {"first_s": answer.first_s, "total_s": answer.total_s, "tokens_per_s": answer.tokens_per_s}
        return {**{k: v for k, v in asdict(self).items() if k != "answer"}, **figures, **asdict(answer)}


def measure(engine: Engine, arms: dict[str, Arm], plan: LatencyPlan, progress: Progress, records: list[Record]) -> None:
    """Run the plan; `records` grows by every answer, so that what was measured before an interruption is kept."""
    total = len(plan.keys) * plan.repeats * len(arms)
    warm = filled(engine, plan.workloads[0], 0, None)
    for arm in arms.values():
        arm(Ask(warm, min(8, plan.max_tokens), 0.0, 0))
    for repeat in range(plan.repeats):
        for number, (workload, temperature, context) in enumerate(plan.keys):
            tokens = filled(engine, workload, repeat, context)
            ask = Ask(tokens, plan.max_tokens, temperature, seed=repeat)
            turn = (repeat + number) % len(arms)
            for name in [*arms][turn:] + [*arms][:turn]:
                time.sleep(plan.rest_s)
                answer = arms[name](ask)
                records.append(Record(workload, temperature, context, repeat, len(tokens), name, answer))
                progress(len(records), total)


class Found:
    """Records, asked for what they come to.

    Args:
        records: of whole repeats, or of the beginning of one.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self._by = {(r.arm, r.key, r.repeat): r.answer for r in records}
        self.arms = list(dict.fromkeys(r.arm for r in records))
        self.keys = list(dict.fromkeys(r.key for r in records))

    def answers(self, arm: str, key: Key | None = None) -> list[Answer]:
        """Of one arm, for one key or for all."""
        return [a for (name, at, _), a in self._by.items() if name == arm and key in (None, at)]

    def speed(self, arm: str, key: Key) -> float:
        """Tokens a second: all tokens by all seconds, 0 without any."""
        answers = self.answers(arm, key)
        return sum(len(a.tokens) for a in answers) / sum(a.total_s for a in answers) if answers else 0.0

    def ratios(self, arm: str, other: str, key: Key | None = None) -> list[float]:
        """Seconds a token of another arm by those of this one, answer by answer: above 1 this one is faster."""
        found = []
        for (name, at, repeat), answer in self._by.items():
            beside = self._by.get((other, at, repeat))
            if name == arm and key in (None, at) and beside is not None:
                found.append(answer.tokens_per_s / beside.tokens_per_s)
        return found

    def best_fixed(self, key: Key) -> str:
        """The fastest of Helix's fixed choices, plain decoding among them."""
        fixed = [arm for arm in self.arms if arm.startswith("helix") and arm != AUTO]
        return max(fixed, key=lambda arm: self.speed(arm, key))

    def best_theirs(self, key: Key) -> str:
        """The fastest of mlx-lm's."""
        return max((arm for arm in self.arms if arm.startswith("mlx-lm")), key=lambda arm: self.speed(arm, key))

    def beside(self) -> dict[str, tuple[float, Callable[[Key], str]]]:
        """What auto is held to, by its name, and what it has to reach of it; what was not measured is left out."""
        found: dict[str, tuple[float, Callable[[Key], str]]] = {
            "helix plain": (NEVER_BELOW, lambda key: PLAIN),
            "best fixed": (NEAR_BEST, self.best_fixed),
        }
        if THEIRS in self.arms:
            found["mlx-lm plain"] = 1.0, lambda key: THEIRS
        if any(arm.startswith("mlx-lm") for arm in self.arms):
            found["mlx-lm best"] = 1.0, self.best_theirs
        if LLAMA_CPP in self.arms:
            found[LLAMA_CPP] = 1.0, lambda key: LLAMA_CPP
        return found


def show(found: Found, line: Notice) -> None:
    """Print tokens a second by workload, then what an arm does over all of them."""
    for temperature, context in dict.fromkeys((t, c) for _, t, c in found.keys):
        keys = [key for key in found.keys if key[1:] == (temperature, context)]
        line(f"\nTokens/s at temperature {temperature:g}" + (f", context {context}" if context else ""))
        rows = [[arm, *(f"{found.speed(arm, key):.1f}" for key in keys)] for arm in found.arms]
        table(["", *(key[0] for key in keys)], rows)
        rows = [
            [f"auto by {word}", *(_median(found.ratios(AUTO, other(key), key)) for key in keys)]
            for word, (_, other) in found.beside().items()
        ]
        if LLAMA_CPP in found.arms:
            plain = [_median(found.ratios(PLAIN, LLAMA_CPP, key)) for key in keys]
            rows.append([f"plain by {LLAMA_CPP}", *plain])
        table(["", *(key[0] for key in keys)], rows)
    line("\nOver all workloads (time to first token and between tokens in ms, memory in MB)")
    heads = ["", "first", "between", "99th", "memory", "tokens/pass", "kept", "waits/token"]
    table(heads, [_details(arm, found.answers(arm)) for arm in found.arms])


def _median(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def _details(arm: str, answers: list[Answer]) -> list[str]:
    gaps = sorted(gap for answer in answers for gap in answer.gaps_s) or [0.0]
    tokens, passes = sum(len(a.tokens) - 1 for a in answers), sum(a.target_passes for a in answers)
    drafted = sum(a.drafted for a in answers)
    kept = sum(sum(a.accepted_by_position) for a in answers)
    waits = sum(a.host_syncs for a in answers)
    return [
        arm,
        f"{statistics.median(a.first_s for a in answers) * 1e3:.1f}",
        f"{statistics.median(gaps) * 1e3:.1f}",
        f"{gaps[min(len(gaps) - 1, len(gaps) * 99 // 100)] * 1e3:.1f}",
        f"{peak / 1e6:.0f}" if (peak := max(a.peak_bytes for a in answers)) else "-",
        f"{tokens / passes:.2f}" if passes else "1.00",
        f"{kept / drafted:.0%}" if drafted else "-",
        f"{waits / max(1, tokens):.2f}" if waits else "-",
    ]


def judge(found: Found) -> list[Asked]:
    """What was asked: auto never loses, and is ahead of mlx-lm's best and of llama.cpp, on every workload."""
    asked = []
    for name, (bound, other) in found.beside().items():
        medians = {key: statistics.median(found.ratios(AUTO, other(key), key)) for key in found.keys}
        least = min(medians, key=lambda key: medians[key])
        told = f"at least {medians[least]:.3f} ({least[0]}, temperature {least[1]:g})"
        asked.append(Asked(f"auto by {name}, on every workload", f"at least {bound:g}", told, medians[least] >= bound))
    if THEIRS not in found.arms:
        return asked
    first = [
        ours.first_s / theirs.first_s for ours, theirs in zip(found.answers(AUTO), found.answers(THEIRS), strict=False)
    ]
    spread = Spread.of(first)
    asked.append(Asked("time to the first token, by mlx-lm's", "at most 1", str(spread), spread.median <= 1))
    return asked
