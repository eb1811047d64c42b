"""What goes wrong with one request is its own error: those beside it say what they say alone."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.handle import Handle
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.errors import LogitsError
from helix_mlx.models.pair import Pair
from helix_mlx.request import Completion
from tests.support import prompt, random_pair

BROKEN = 95
"""The prompt's last token that a target of `breaking` gives logits for that are no numbers."""
BESIDE: list[dict[str, Any]] = [
    {"draft_tokens": 0},
    {"draft_tokens": 4},
    {},
    {"temperature": 0.9, "seed": 5},
    {"temperature": 0.9, "seed": 5, "draft_tokens": 3},
    {"drafter": "ngram"},
    {"max_tokens": 9},
]


class Breaking(nn.Module):
    """A model whose logits behind one token are no numbers."""

    def __init__(self, model: Any, value: float) -> None:
        super().__init__()
        self.model = model
        self.value = value

    def __call__(self, inputs: mx.array, cache: Seq[Any] | None = None) -> mx.array:
        logits = self.model(inputs, cache=cache)
        return mx.where((inputs == BROKEN)[..., None], self.value, logits)


def breaking(pair: Pair, value: float) -> Pair:
    return replace(pair, target=replace(pair.target, model=Breaking(pair.target.model, value)))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return random_pair()


def config() -> EngineConfig:
    return EngineConfig(max_context=128, max_rows=64)


@pytest.fixture(scope="module")
def alone(pair: Pair) -> list[list[int]]:
    with Engine(pair, config()) as engine:
        return [
            engine.submit(prompt(9 + n, n), **{"max_tokens": 40, **settings}).result().tokens
            for n, settings in enumerate(BESIDE)
        ]


def seven_beside(pair: Pair, alone: list[list[int]], bad: Callable[[Engine], Handle], failed: int = 1) -> BaseException:
    """Run a request that fails in the middle of seven others; returns its error when all is as it should be."""
    with Engine(pair, config()) as engine:
        handles = []
        for n, settings in enumerate(BESIDE):
            handles.append(engine.submit(prompt(9 + n, n), **{"max_tokens": 40, **settings}))
            if n == 3:
                failing = bad(engine)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each caller says which
            failing.results(60)
        assert failing.done
        assert [handle.result(60).tokens for handle in handles] == alone
        assert engine.generate(prompt(9), max_tokens=5).tokens == alone[0][:5]
        metrics = engine.metrics()
        assert (metrics.running, metrics.waiting, metrics.pages_used) == (0, 0, 0)
        assert metrics.failed == failed
        return caught.value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 1.0, "seed": 1, "draft_tokens": 2}])
def test_logits_that_are_no_numbers(pair: Pair, alone: list[list[int]], value: float, settings: dict[str, Any]) -> None:
    def bad(engine: Engine) -> Handle:
        return engine.submit([*prompt(12), BROKEN], max_tokens=40, **settings)

    error = seven_beside(breaking(pair, value), alone, bad)
    assert isinstance(error, LogitsError)
    assert "token 1 of the answer" in str(error)


class WrongError(Exception):
    """What a test lets go wrong."""


def on_the(place: str, monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    """Let something of the request of this temperature fail."""
    name, at = {"token": ("accept", 5), "first": ("accept", 0), "end": ("finish_text", 0)}[place]
    method = getattr(Sequence, name)

    def spoiled(self: Sequence, *arguments: Any) -> Any:
        if self.params.temperature == temperature and self.index == 0 and self.emitted_count >= at:
            raise WrongError
        return method(self, *arguments)

    monkeypatch.setattr(Sequence, name, spoiled)


@pytest.mark.parametrize("place", ["first", "token", "end"])
@pytest.mark.parametrize("settings", [{}, {"draft_tokens": 4}, {"n": 3}])
def test_text_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, pair: Pair, alone: list[list[int]], place: str, settings: dict[str, Any]
) -> None:
    on_the(place, monkeypatch, 0.25)
    error = seven_beside(
        pair, alone, lambda engine: engine.submit(prompt(12), max_tokens=40, temperature=0.25, seed=3, **settings)
    )
    assert isinstance(error, WrongError)


def test_a_completion_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch, pair: Pair, alone: list[list[int]]) -> None:
    def fails(self: Any, sequence: Sequence) -> Completion:
        if sequence.params.temperature == 0.25:
            raise WrongError
        return of(self, sequence)

    from helix_mlx.engine.core import EngineCore

    of = EngineCore.completion
    monkeypatch.setattr(EngineCore, "completion", fails)
    bad = seven_beside(pair, alone, lambda engine: engine.submit(prompt(12), max_tokens=40, temperature=0.25), failed=0)
    assert isinstance(bad, WrongError)


def test_a_reader_that_raises_ends_its_own_answer(pair: Pair, alone: list[list[int]]) -> None:
    with Engine(pair, config()) as engine:
        handles = [
            engine.submit(prompt(9 + n, n), **{"max_tokens": 40, **settings}) for n, settings in enumerate(BESIDE)
        ]

        def cancel() -> bool:
            raise WrongError

        with pytest.raises(WrongError):
            list(engine.stream(prompt(12), max_tokens=40, cancel=cancel))

        def progress(done: int, total: int) -> None:
            raise WrongError

        with pytest.raises(WrongError):
            list(engine.stream(prompt(12), max_tokens=40, progress=progress))
        assert [handle.result(60).tokens for handle in handles] == alone
        assert engine.metrics().pages_used == 0
