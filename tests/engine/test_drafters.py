"""A drafter of one's own: one class and one row, and the text stays the target's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import SettingsError
from helix_mlx.models.pair import Pair
from helix_mlx.speculative.drafter import DrafterSpec, Needs
from helix_mlx.speculative.registry import DRAFTERS, Drafters
from tests.support import VOCAB, prompt, random_pair


class Constant:
    """Always proposes the same token."""

    def __init__(self, token: int = 5) -> None:
        self.token = token
        self.observed: list[tuple[int, int]] = []
        self.released = 0

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        return [self.token] * count

    def kind(self) -> str:
        return "constant"

    def observe(self, proposed: int, accepted: int) -> None:
        self.observed.append((proposed, accepted))

    def release(self) -> None:
        self.released += 1


def with_row(drafter: type[Constant] = Constant) -> Drafters:
    return {**DRAFTERS, "constant": DrafterSpec("constant", Needs.TOKENS, {"constant": 0.1}, drafter)}


@pytest.fixture(scope="module")
def pair() -> Pair:
    return random_pair()


@pytest.fixture(scope="module")
def texts(pair: Pair) -> dict[float, list[list[int]]]:
    with Engine(replace(pair, draft=None), EngineConfig(max_context=128)) as engine:
        return {t: [answer(engine, n, t, draft_tokens=0) for n in range(4)] for t in (0.0, 1.0)}


def answer(engine: Engine, number: int, temperature: float, **settings: Any) -> list[int]:
    return engine.submit(prompt(9 + number, number), **sampling(temperature), **settings).result().tokens


def sampling(temperature: float) -> dict[str, Any]:
    return {"max_tokens": 24, "temperature": temperature, "seed": 3 if temperature else None}


@pytest.mark.parametrize("draft_tokens", [None, 1, 4, 7])
@pytest.mark.parametrize("drafter", ["constant", "auto"])
def test_the_text_is_the_targets(
    pair: Pair, texts: dict[float, list[list[int]]], drafter: str, draft_tokens: int | None
) -> None:
    config = EngineConfig(max_context=128, max_rows=64, drafter=drafter, draft_tokens=draft_tokens)
    with Engine(pair, config, drafters=with_row()) as engine:
        for temperature, expected in texts.items():
            assert [answer(engine, n, temperature) for n in range(4)] == expected
            handles = [engine.submit(prompt(9 + n, n), **sampling(temperature)) for n in range(4)]
            assert [handle.result().tokens for handle in handles] == expected
        if drafter == "constant" and draft_tokens:
            stats = handles[0].result().stats
            assert stats.drafted > 0
            assert set(stats.cycles_by_drafter) == {"constant"}


def test_it_is_told_what_was_kept_and_when_it_ends(pair: Pair) -> None:
    made: list[Constant] = []

    class Watched(Constant):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    with Engine(pair, EngineConfig(max_context=128), drafters=with_row(Watched)) as engine:
        done = engine.submit(prompt(9), max_tokens=20, drafter="constant", draft_tokens=3, n=2).results()
    assert [each.released for each in made] == [1, 1]
    assert sorted(sum(a for _, a in each.observed) for each in made) == sorted(each.stats.accepted for each in done)
    assert {count for each in made for count, _ in each.observed} == {3}


@pytest.mark.parametrize("tokens", [[VOCAB], [-1], [3] * 50, []])
def test_what_it_proposes_may_be_anything(pair: Pair, texts: dict[float, list[list[int]]], tokens: list[int]) -> None:
    class Odd(Constant):
        def propose(self, _: Sequence[int], count: int) -> list[int]:
            return tokens

    with Engine(pair, EngineConfig(max_context=128), drafters=with_row(Odd)) as engine:
        assert answer(engine, 0, 0.0, drafter="constant", draft_tokens=4) == texts[0.0][0]


def test_one_that_fails_ends_its_own_request(pair: Pair, texts: dict[float, list[list[int]]]) -> None:
    class Failing(Constant):
        def propose(self, tokens: Sequence[int], count: int) -> list[int]:
            raise RuntimeError("no idea")

    with Engine(pair, EngineConfig(max_context=128, max_rows=64), drafters=with_row(Failing)) as engine:
        beside = [engine.submit(prompt(9 + n, n), **sampling(0.0), draft_tokens=n) for n in range(4)]
        failing = engine.submit(prompt(12), max_tokens=20, drafter="constant", draft_tokens=4)
        with pytest.raises(RuntimeError, match="no idea"):
            failing.result(60)
        assert [handle.result(60).tokens for handle in beside] == texts[0.0]
        assert engine.metrics().pages_used == 0


def test_an_unknown_name_is_told_with_those_that_are_known(pair: Pair) -> None:
    names = "drafter is eagle, but must be one of auto, model, mtp, ngram, constant, none"
    with (
        Engine(pair, EngineConfig(max_context=64), drafters=with_row()) as engine,
        pytest.raises(SettingsError, match=names),
    ):
        engine.submit(prompt(9), drafter="eagle")
    with pytest.raises(SettingsError, match="drafter is eagle"):
        Engine(pair, EngineConfig(drafter="eagle"))
