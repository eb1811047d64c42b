"""Whether speculation gives the target's own text: identical, or where and by what margin it differs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from helix_mlx.bench.fixtures import baselines
from helix_mlx.bench.fixtures.prompts import WORKLOADS, filled
from helix_mlx.bench.output.tables import Asked, table
from helix_mlx.engine.engine import Engine
from helix_mlx.request import SamplingParams
from helix_mlx.types import Notice, Progress

LENGTHS: tuple[int | None, ...] = (1, 4, 7, None)
"""Draft lengths that are held to plain decoding; None is auto."""


@dataclass(frozen=True)
class Compared:
    """One answer held to plain decoding's.

    Args:
        workload, temperature, prompt: whose; `prompt` counts within the workload.
        against: "helix plain" or "mlx-lm".
        arm: what was held to it.
        tokens: of the answer that both give.
        position: where they part, None where they are the same.
        expected, found: the tokens there.
        margin: of the target's two largest logits there, in logits; how close the choice was at temperature 0.
    """

    workload: str
    temperature: float
    prompt: int
    against: str
    arm: str
    tokens: int
    position: int | None = None
    expected: int | None = None
    found: int | None = None
    margin: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For a receipt."""
        return {**asdict(self), "identical": self.position is None}


def compare(engine: Engine, prompts: int, max_tokens: int, seed: int, progress: Progress) -> list[Compared]:
    """Greedy and seeded answers with drafts, held to Helix's without, and greedy ones to mlx-lm's, too.

    Args:
        engine: a pair with or without a draft.
        prompts: of each workload.
        max_tokens: longest answer.
        seed: of the answers at temperature 0.8.
        progress: is told prompts done and in all.
    """
    found: list[Compared] = []
    total = len(WORKLOADS) * prompts
    for number, workload in enumerate(WORKLOADS):
        for prompt in range(prompts):
            tokens = filled(engine, workload, prompt, None)
            for temperature in (0.0, 0.8):
                params = SamplingParams(
                    max_tokens=max_tokens, temperature=temperature, seed=seed if temperature else None
                )
                plain = engine.generate(tokens, params, draft_tokens=0).tokens
                others = {"helix plain": plain}
                if not temperature:
                    others["mlx-lm"] = baselines.greedy(engine.pair, tokens, max_tokens)
                for length in LENGTHS:
                    drafted = engine.generate(tokens, params, draft_tokens=length).tokens
                    arm = "auto" if length is None else f"K={length}"
                    for name, expected in others.items():
                        parted = parting(engine, tokens, expected, drafted)
                        found.append(Compared(workload, temperature, prompt, name, arm, len(drafted), *parted))
            progress(number * prompts + prompt + 1, total)
    return found


def parting(
    engine: Engine, prompt: list[int], expected: list[int], found: list[int]
) -> tuple[int | None, int | None, int | None, float | None]:
    """Where two answers part, both tokens, and the margin there; four times None where they do not."""
    if expected == found:
        return None, None, None, None
    pairs = zip(expected, found, strict=False)
    position = next((at for at, (one, other) in enumerate(pairs) if one != other), min(len(expected), len(found)))
    one = expected[position] if position < len(expected) else None
    other = found[position] if position < len(found) else None
    return position, one, other, margin(engine, [*prompt, *expected[:position]])


def margin(engine: Engine, tokens: list[int]) -> float:
    """By how much the target's best next token is ahead of its second best, in logits."""
    target_logits = engine.pair.target.model(mx.array([tokens]), cache=None)[0, -1].astype(mx.float32)
    second, best = np.array(mx.sort(target_logits)[-2:])
    return float(best) - float(second)


def show(found: list[Compared], line: Notice) -> None:
    """Print a row for each workload and temperature, and a line for each answer that parts."""
    line("\nAnswers identical to plain decoding, token for token")
    rows = []
    for workload, temperature in dict.fromkeys((each.workload, each.temperature) for each in found):
        row = [f"{workload}, temperature {temperature:g}"]
        for against in ("helix plain", "mlx-lm"):
            part = [e for e in found if (e.workload, e.temperature, e.against) == (workload, temperature, against)]
            row.append(f"{sum(e.position is None for e in part)} of {len(part)}" if part else "-")
        rows.append(row)
    table(["", "by Helix plain", "by mlx-lm"], rows)
    for each in found:
        if each.position is not None:
            line(
                f"{each.workload}, temperature {each.temperature:g}, prompt {each.prompt}, {each.arm} against "
                f"{each.against}: token {each.position} is {each.found} and not {each.expected}; "
                f"the target's two best were {each.margin:.4f} apart"
            )


def judge(found: list[Compared]) -> list[Asked]:
    """What was asked: everything is Helix's plain decoding; mlx-lm's arithmetic may break a tie otherwise."""
    own = [each for each in found if each.against == "helix plain"]
    same = sum(each.position is None for each in own)
    return [Asked("answers equal to plain decoding's", f"all {len(own)}", str(same), same == len(own))]
