"""The token and the block rule in exact rational numbers, written from the papers and from no production code."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

Row = list[Fraction]
Path = tuple[int, ...]
ONE, ZERO = Fraction(1), Fraction(0)


def norm(row: Row) -> Row | None:
    total = sum(row, ZERO)
    return [x / total for x in row] if total else None


def surplus(weight: Fraction, p: Row, q: Row) -> Row:
    return [max(weight * a - b, ZERO) for a, b in zip(p, q, strict=True)]


@dataclass(frozen=True)
class Problem:
    """K drafts over V tokens: p and q give the next token's distribution after each prefix of drafts."""

    vocab: int
    count: int
    p: dict[Path, Row]
    q: dict[Path, Row]

    @classmethod
    def random(cls, vocab: int, count: int, seed: int, zeros: bool = True) -> Problem:
        """Any p and q that depend on the prefix, with probabilities of 0 and 1 among them."""
        rng = random.Random(seed)

        def row() -> Row:
            drawn = norm([Fraction(rng.choice([0, 0, 1, 2, 5, 9] if zeros else [1, 2, 5, 9])) for _ in range(vocab)])
            return drawn or row()

        prefixes = [x for n in range(count + 1) for x in itertools.product(range(vocab), repeat=n)]
        return cls(vocab, count, {x: row() for x in prefixes}, {x: row() for x in prefixes})

    @classmethod
    def adversarial(cls, vocab: int, count: int) -> Problem:
        """The draft's favourites are the target's last choices, and both turn with every token of the prefix."""
        p, q = {}, {}
        for n in range(count + 1):
            for x in itertools.product(range(vocab), repeat=n):
                raw = [Fraction(1 + (token + sum(x) + n) % vocab * 4) for token in range(vocab)]
                p[x], q[x] = norm(raw) or [], norm([1 / value for value in raw]) or []
        return cls(vocab, count, p, q)

    @classmethod
    def toy(cls) -> Problem:
        """The paper's example: p = (1/3, 2/3) and q = (2/3, 1/3) after any prefix, K = 2."""
        prefixes = [x for n in range(3) for x in itertools.product(range(2), repeat=n)]
        third = Fraction(1, 3)
        return cls(2, 2, {x: [third, 2 * third] for x in prefixes}, {x: [2 * third, third] for x in prefixes})

    def draft_prob(self, path: Path) -> Fraction:
        prob = ONE
        for i, x in enumerate(path):
            prob *= self.q[path[:i]][x]
        return prob

    @cached_property
    def paths(self) -> list[Path]:
        """Every draft that can come up."""
        return [x for x in itertools.product(range(self.vocab), repeat=self.count) if self.draft_prob(x)]


@dataclass(frozen=True)
class Decision:
    """A rule's answer to one draft: h_1..h_K, how likely each number of drafts is kept, and the residuals."""

    acceptance: Row
    kept: Row
    residuals: list[Row | None]


def token_rule(problem: Problem, path: Path) -> Decision:
    h, residuals = [], []
    for i, x in enumerate(path):
        p, q = problem.p[path[:i]], problem.q[path[:i]]
        h.append(min(ONE, p[x] / q[x]))
        residuals.append(norm(surplus(ONE, p, q)))
    kept, reach = [], ONE
    for value in h:
        kept.append(reach * (1 - value))
        reach *= value
    return Decision(h, [*kept, reach], [*residuals, problem.p[path]])


def block_rule(problem: Problem, path: Path) -> Decision:
    weights = [ONE]
    for i, x in enumerate(path):
        weights.append(min(weights[-1] * problem.p[path[:i]][x] / problem.q[path[:i]][x], ONE))
    h, residuals = [], []
    for i in range(problem.count):
        left = surplus(weights[i], problem.p[path[:i]], problem.q[path[:i]])
        residuals.append(norm(left))
        if i:
            below = sum(left, ZERO) + 1 - weights[i]
            h.append(sum(left, ZERO) / below if below else ONE)
    h += weights[problem.count :] if problem.count else []
    kept, fails = [], ONE
    for value in reversed(h):
        kept.append(fails * value)
        fails *= 1 - value
    return Decision(h, [fails, *reversed(kept)], [*residuals, problem.p[path]])


RULES: dict[str, Callable[[Problem, Path], Decision]] = {"token": token_rule, "block": block_rule}


def expected_accepted(problem: Problem, rule: str) -> Fraction:
    return sum(
        (problem.draft_prob(x) * i * k for x in problem.paths for i, k in enumerate(RULES[rule](problem, x).kept)), ZERO
    )


def emitted(problem: Problem, rule: str) -> dict[Path, Fraction]:
    """How likely each text of K + 1 tokens is, where what a cycle leaves open is drawn from the target."""
    after: dict[Path, Fraction] = {}
    for path in problem.paths:
        decision = RULES[rule](problem, path)
        for i, kept in enumerate(decision.kept):
            residual = decision.residuals[i]
            if not kept:
                continue
            assert residual is not None, "a residual of nothing can be reached"
            for y, prob in enumerate(residual):
                if prob:
                    text = (*path[:i], y)
                    after[text] = after.get(text, ZERO) + problem.draft_prob(path) * kept * prob
    texts: dict[Path, Fraction] = {}
    for text, prob in after.items():
        for rest, rest_prob in _continuations(problem, text):
            texts[rest] = texts.get(rest, ZERO) + prob * rest_prob
    return texts


def _continuations(problem: Problem, text: Path) -> Iterator[tuple[Path, Fraction]]:
    if len(text) == problem.count + 1:
        yield text, ONE
        return
    for y, prob in enumerate(problem.p[text]):
        if prob:
            for rest, rest_prob in _continuations(problem, (*text, y)):
                yield rest, prob * rest_prob


def target_texts(problem: Problem) -> dict[Path, Fraction]:
    """How likely each text of K + 1 tokens is under the target alone."""
    return dict(_continuations(problem, ()))
