"""Cycles of the production code on Markov models, and chi-square checks of the text that comes out.

Each check returns a list of complaints, empty where the text has the target's distribution, so that the tests
of the rules and the tests of the planted bugs run the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from helix_mlx.request import SamplingParams
from helix_mlx.sampling.filters import Filters, filtered_probs
from helix_mlx.speculative.verification import draft_token, verify
from helix_mlx.speculative.verification.types import Draft, Rows

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Drafter = Literal["model", "one-hot"]
PLAIN = SamplingParams(temperature=1.0)


@dataclass(frozen=True, eq=False)
class Markov:
    """Two models that look at one token back: row t of a [V, V] array holds the logits after token t."""

    target_logits: mx.array
    draft_logits: mx.array

    @classmethod
    def adversarial(cls, vocab: int, seed: int, spread: float = 1.0) -> Markov:
        """The draft wants whatever the target does not, after every token something else."""
        logits = mx.array(np.random.default_rng(seed).normal(size=(vocab, vocab)) * spread, mx.float32)
        return cls(logits, -logits)

    @classmethod
    def unrelated(cls, vocab: int, seed: int) -> Markov:
        """A draft that knows nothing of the target."""
        logits = np.random.default_rng(seed).normal(size=(2, vocab, vocab)) * 1.5
        return cls(mx.array(logits[0], mx.float32), mx.array(logits[1], mx.float32))

    @property
    def vocab(self) -> int:
        return int(self.target_logits.shape[0])

    def probs(self, params: SamplingParams) -> Floats:
        """The target's filtered probabilities, [V, V]."""
        rows = filtered_probs(self.target_logits[None], Filters.of([params]))
        probs: Floats = np.array(rows)[0].astype(np.float64)
        probs /= probs.sum(axis=1, keepdims=True)
        return probs


@dataclass(frozen=True, eq=False)
class Sequences:
    """Running sequences of a test: the last token, its position, and the settings, each [B]."""

    last: mx.array
    positions: mx.array
    seeds: mx.array
    filters: Filters
    rules: list[str]

    @classmethod
    def start(cls, seeds: Ints, params: list[SamplingParams], rules: list[str], last: int = 0) -> Sequences:
        count = len(rules)
        at = mx.full((count,), 3, mx.int32)
        return cls(mx.full((count,), last, mx.int32), at, mx.array(seeds, mx.uint32), Filters.of(params), rules)


def propose(model: Markov, running: Sequences, count: int, drafter: Drafter = "model") -> Draft | None:
    """K drafts a sequence, as the engine's drafters draw them."""
    tokens, probs, previous = [], [], running.last
    for index in range(1, count + 1):
        logits = model.draft_logits[previous]
        if drafter == "one-hot":
            previous, token_probs = mx.argmax(logits, axis=-1).astype(mx.int32), None
        else:
            previous, token_probs = draft_token(
                logits, index, running.filters, running.seeds, running.positions, running.rules
            )
        tokens.append(previous)
        probs.append(token_probs)
    if not tokens:
        return None
    known = [p for p in probs if p is not None]
    return Draft(mx.stack(tokens, axis=1), mx.stack(known, axis=1) if len(known) == count else None)


def cycle(model: Markov, running: Sequences, count: int, drafter: Drafter = "model") -> tuple[Sequences, Ints, Ints]:
    """One cycle: the sequences after it, how many tokens each got, [B], and those tokens, [B, K + 1]."""
    draft = propose(model, running, count, drafter)
    rows = running.last[:, None]
    rows = rows if draft is None else mx.concatenate([rows, draft.tokens], axis=1)
    target_logits = model.target_logits[rows]
    verdict = verify(Rows(target_logits, draft, running.filters, running.seeds, running.positions), running.rules)
    shifted = mx.concatenate([rows[:, 1:], rows[:, :1]], axis=1)
    place = mx.arange(count + 1)[None]
    tokens = mx.where(place == verdict.accepted[:, None], verdict.next_token[:, None], shifted)
    after = Sequences(
        verdict.next_token, running.positions + verdict.accepted + 1, running.seeds, running.filters, running.rules
    )
    mx.eval(tokens, after.last, after.positions)
    return after, np.array(verdict.accepted).astype(np.int64) + 1, np.array(tokens).astype(np.int64)


def generate(
    model: Markov, running: Sequences, counts: list[int], length: int, drafter: Drafter = "model"
) -> tuple[Ints, float]:
    """Cycles until every sequence has `length` tokens: the tokens, [B, length], and the mean of tokens a cycle.

    `counts` are the values of K, taken in turn, one a cycle.
    """
    batch = len(running.rules)
    width = max(counts) + 1
    text: Ints = np.zeros((batch, length + width), np.int64)
    have: Ints = np.zeros(batch, np.int64)
    cycles = 0
    while have.min() < length:
        count = counts[cycles % len(counts)]
        running, gained, tokens = cycle(model, running, count, drafter)
        for column in range(count + 1):
            live = (gained > column) & (have + column < length)
            text[live, (have + column)[live]] = tokens[live, column]
        have += gained
        cycles += 1
    return text[:, :length], float(have.mean() / cycles)


def one_cycle_complaints(
    rule: str,
    model: Markov,
    draws: int,
    *,
    count: int = 4,
    drafter: Drafter = "model",
    params: SamplingParams = PLAIN,
) -> list[str]:
    """One cycle for each of `draws` seeds; the rest of the K + 1 tokens are drawn from the target by NumPy."""
    probs, rng, texts = model.probs(params), np.random.default_rng(1), []
    batch = min(draws, 25000)
    for first in range(0, draws, batch):
        running = Sequences.start(np.arange(first, first + batch), [params] * batch, [rule] * batch)
        _, gained, tokens = cycle(model, running, count, drafter)
        for column in range(1, count + 1):
            drawn = (probs.cumsum(axis=1)[tokens[:, column - 1]] < rng.random((batch, 1))).sum(axis=1)
            tokens[:, column] = np.where(gained > column, tokens[:, column], np.minimum(drawn, model.vocab - 1))
        texts.append(tokens)
    return text_complaints(np.concatenate(texts), probs)


def many_cycle_complaints(rule: str, draws: int, length: int = 6) -> list[str]:
    """Whole texts, over as many cycles as they take: what one cycle leaves behind must not touch the next."""
    model = Markov.adversarial(4, seed=5, spread=0.7)
    running = Sequences.start(np.arange(draws), [PLAIN] * draws, [rule] * draws)
    text, _ = generate(model, running, [4], length)
    return text_complaints(text, model.probs(PLAIN))


def text_complaints(text: Ints, probs: Floats, last: int = 0) -> list[str]:
    """Compare tokens [n, L] that follow token `last` with the Markov chain probs [V, V], singly and in pairs."""
    complaints = []
    draws, length = text.shape
    vocab = len(probs)
    before = np.eye(vocab)[last]
    for column in range(length):
        here = before @ probs
        found = np.bincount(text[:, column], minlength=vocab)
        complaints += _complaint(f"token {column}", found, draws * here)
        if column:
            pairs = np.bincount(text[:, column - 1] * vocab + text[:, column], minlength=vocab**2)
            complaints += _complaint(
                f"tokens {column - 1} and {column}", pairs, draws * (before[:, None] * probs).ravel()
            )
        before = here
    return complaints


def _complaint(name: str, found: Ints, expected: Floats) -> list[str]:
    """Chi-square with bins of less than 5 expected merged, against df + 10 sqrt(2 df), which chance never reaches."""
    if found[expected == 0].any():
        return [f"{name}: an impossible token came up"]
    small = expected < 5
    found_bins = np.append(found[~small], found[small].sum())
    expected_bins = np.append(expected[~small], expected[small].sum())
    used = expected_bins >= 5
    freedom = int(used.sum()) - 1
    if freedom < 1:
        return []
    chi2 = float(((found_bins - expected_bins)[used] ** 2 / expected_bins[used]).sum())
    limit = freedom + 10 * (2 * freedom) ** 0.5
    return [f"{name}: chi-square {chi2:.0f} above {limit:.0f}"] if chi2 > limit else []
