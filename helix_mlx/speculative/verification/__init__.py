"""Verification: how many drafts to accept and which token follows, keeping the target's distribution exactly.

A rule is a file with the two halves, `propose` and `verify`, and a row in `RULES`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import mlx.core as mx

from helix_mlx.sampling.filters import Filters
from helix_mlx.speculative.verification import block, coupled, greedy, rejection, token_rule
from helix_mlx.speculative.verification.types import DraftStep, Rows, Rule, Verdict, one_hot

RowKey = TypeVar("RowKey", bound=Hashable)

RULES = {
    "greedy": Rule(greedy.propose, greedy.verify),
    "coupled": Rule(coupled.propose, coupled.verify),
    "block": Rule(rejection.propose, block.verify),
    "token": Rule(rejection.propose, token_rule.verify),
}


def verify(rows: Rows, rules: Sequence[str], counts: Sequence[int] | None = None) -> Verdict:
    """Verify a cycle, each sequence by its own rule; a sequence's result does not depend on the rest of the batch.

    Args:
        rows: the cycle of B sequences.
        rules: B names of `RULES`.
        counts: the drafts of each sequence, where not all have as many: those behind them were never proposed.
    """
    most = rows.target_logits.shape[1] - 1
    groups = _groups([(rule, most if counts is None else counts[row]) for row, rule in enumerate(rules)])
    if len(groups) == 1:
        (rule, count), _ = groups.popitem()
        return RULES[rule].verify(rows.cut(count))
    verdicts = [RULES[rule].verify(rows.take(members).cut(count)) for (rule, count), members in groups.items()]
    place = _places(groups.values())
    return Verdict(
        mx.concatenate([verdict.accepted for verdict in verdicts])[place],
        mx.concatenate([verdict.next_token for verdict in verdicts])[place],
        mx.concatenate([verdict.finite for verdict in verdicts])[place],
    )


def draft_token(
    draft_logits: mx.array,
    index: int,
    filters: Filters,
    seeds: mx.array,
    positions: mx.array,
    rules: Sequence[str],
) -> tuple[mx.array, mx.array | None]:
    """Sample one draft per sequence, as its verification rule requires.

    Args:
        draft_logits: [B, V], the draft model's answer.
        index: i = 1..K, which draft of the cycle this is.
        filters: of the B sequences.
        seeds: [B] uint32, folded.
        positions: [B] int32, n, the position of the last known token (not the draft's own).
        rules: B names of `RULES`.

    Returns:
        The tokens, [B] int32, and the probabilities they were drawn from, [B, V] float32; None stands for one-hot
        in every row, which is what a greedy batch gives.
    """
    step = DraftStep(draft_logits, index, filters, seeds, positions)
    groups = _groups(rules)
    if len(groups) == 1:
        return RULES[rules[0]].propose(step)
    tokens, probs = [], []
    for rule, members in groups.items():
        token, token_probs = RULES[rule].propose(step.take(members))
        tokens.append(token)
        probs.append(one_hot(token, draft_logits.shape[-1]) if token_probs is None else token_probs)
    place = _places(groups.values())
    return mx.concatenate(tokens)[place], mx.concatenate(probs)[place]


def _groups(kinds: Sequence[RowKey]) -> dict[RowKey, list[int]]:
    """The sequences of each kind, in the order of the batch."""
    groups: dict[RowKey, list[int]] = {}
    for row, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(row)
    return groups


def _places(groups: Iterable[list[int]]) -> mx.array:
    """Where each sequence of the batch is once the groups are laid end to end: [B] int32."""
    members = [row for group in groups for row in group]
    places = [0] * len(members)
    for place, row in enumerate(members):
        places[row] = place
    return mx.array(places, mx.int32)
