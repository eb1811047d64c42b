"""The arms of a comparison: llama.cpp, mlx-lm plain and with the draft, and Helix plain, with fixed draft lengths,
n-grams and auto.

All stop where their own answer ends.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import mlx.core as mx

from helix_mlx.bench.fixtures import baselines
from helix_mlx.bench.fixtures.answers import Answer, Arm, Ask
from helix_mlx.engine.acceptance_counts import drafters_of
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import SettingsError
from helix_mlx.models.pair import Pair
from helix_mlx.request import MAX_DRAFT_TOKENS, Request, SamplingParams

PLAIN, AUTO, NGRAM, THEIRS = "helix plain", "helix auto", "helix n-gram", "mlx-lm plain"
LLAMA_CPP = "llama.cpp"
THEIR_LENGTHS = (2, 3, 4)
"""Draft lengths of mlx-lm's own speculation."""
NGRAM_LENGTH = 4
"""The draft length of n-grams where it is fixed."""


def helix_arm(engine: Engine, draft_tokens: int | None, drafter: str | None, ask: Ask) -> Answer:
    """Helix, through the same call as a program's."""
    params = SamplingParams(
        max_tokens=ask.max_tokens, temperature=ask.temperature, seed=ask.seed if ask.temperature else None
    )
    mx.reset_peak_memory()
    began = time.perf_counter()
    answer = Answer()
    for chunk in engine.submit(Request(ask.tokens, params, draft_tokens, drafter)):
        if chunk.token is not None:
            answer.came_s.append(time.perf_counter() - began)
            answer.tokens.append(chunk.token)
    stats = chunk.stats
    assert stats is not None
    answer.drafted, answer.accepted_by_position = stats.drafted, stats.accepted_by_position
    answer.cycles_by_draft_length = stats.cycles_by_draft_length
    answer.target_passes, answer.host_syncs = stats.target_passes, stats.host_syncs
    answer.peak_bytes = mx.get_peak_memory()
    return answer


def all_arms(theirs: Pair, ours: Engine, *, few: bool = False, llama_cpp: Arm | None = None) -> dict[str, Arm]:
    """Every arm by its name: the others', then Helix plain and auto, which take their turns side by side.

    Args:
        theirs: the pair as mlx-lm loads it.
        ours: Helix on the same weights.
        few: leave out draft lengths of which the others tell enough.
        llama_cpp: llama.cpp on the same weights, where it can be had.
    """
    named: dict[str, Arm] = {} if llama_cpp is None else {LLAMA_CPP: llama_cpp}
    named[THEIRS] = partial(baselines.answer, theirs, 0)
    if theirs.draft is not None:
        lengths = THEIR_LENGTHS[1:2] if few else THEIR_LENGTHS
        named |= {f"mlx-lm K={count}": partial(baselines.answer, theirs, count) for count in lengths}
    named[PLAIN] = partial(helix_arm, ours, 0, None)
    named[AUTO] = partial(helix_arm, ours, None, None)
    named[NGRAM] = partial(helix_arm, ours, NGRAM_LENGTH, "ngram")
    if ours.pair.draft is not None:
        fixed = (2, 4) if few else range(1, MAX_DRAFT_TOKENS + 1)
        named |= {f"helix K={count}": partial(helix_arm, ours, count, drafters_of(ours)[0]) for count in fixed}
    return named


def chosen_arms(named: dict[str, Arm], wanted: Sequence[str]) -> dict[str, Arm]:
    """Those that are asked for, with Helix plain and auto; all where none is.

    Raises:
        SettingsError: there is no arm of such a name.
    """
    for name in wanted:
        if name not in named:
            raise SettingsError(f'there is no arm "{name}" for this pair; choose from: {", ".join(named)}')
    return {name: arm for name, arm in named.items() if not wanted or name in (PLAIN, AUTO, *wanted)}
