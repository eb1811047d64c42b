"""The built-in pair: it speaks, it is exact, and it answers what its model card says it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import helix_mlx.convert.builtin
import helix_mlx.models
from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine, load
from helix_mlx.request import SamplingParams
from helix_mlx.toml import read_toml
from tests.support import plain

CODE = "import os\nimport sys\n\ndef main():\n"
QUESTION = "What is Helix?"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with load() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def prompts(engine: Engine) -> list[list[int]]:
    tokenizer = engine.pair.tokenizer
    asked = tokenizer.encode_chat([{"role": "user", "content": QUESTION}])
    return [tokenizer.encode(CODE), asked, tokenizer.encode("class Stack:\n")]


def test_it_takes_at_most_ten_megabytes() -> None:
    folder = Path(helix_mlx.models.__file__).parent / "tiny"
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 10_000_000


def test_greedy_text_is_mlx_lms(engine: Engine, prompts: list[list[int]]) -> None:
    eos = engine.pair.tokenizer.eos_ids
    for tokens in prompts:
        expected = plain(engine.pair.target.model, tokens, 48)
        end = next((i + 1 for i, token in enumerate(expected) if token in eos), 48)
        for count in (0, 4, 7):
            assert engine.generate(tokens, max_tokens=48, draft_tokens=count).tokens == expected[:end]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_seeded_text_does_not_depend_on_the_draft(engine: Engine, prompts: list[list[int]], lookahead: int) -> None:
    params = SamplingParams(max_tokens=48, temperature=0.8, seed=7)
    expected = [engine.generate(tokens, params, draft_tokens=0).tokens for tokens in prompts]
    with Engine(engine.pair, EngineConfig(lookahead=lookahead, page_size=8)) as other:
        for count in (1, 4):
            assert [c.tokens for c in other.generate(prompts, params, draft_tokens=count)] == expected


def test_the_draft_is_worth_asking(engine: Engine, prompts: list[list[int]]) -> None:
    done = engine.generate(prompts, max_tokens=64, draft_tokens=4)
    assert sum(c.stats.accepted for c in done) > 0.5 * sum(c.stats.drafted for c in done)


def test_the_twenty_questions_of_the_model_card(engine: Engine) -> None:
    file = Path(helix_mlx.convert.builtin.__file__).with_name("twenty_questions.toml")
    rows = read_toml(file)["question"]
    assert len(rows) == 20
    wrong = []
    for row in rows:
        text = engine.chat([{"role": "user", "content": row["question"]}], max_tokens=160).text
        if not all(part in text for part in row["contains"]):
            wrong.append((row["question"], text))
    assert not wrong


def test_a_conversation_prefills_only_what_is_new(engine: Engine) -> None:
    """Also where the model wrote its answer in other tokens than its tokenizer would choose."""
    messages = []
    with engine.conversation() as conversation:
        for text in ("Hello", QUESTION, "What is a page?"):
            messages.append({"role": "user", "content": text})
            params = SamplingParams(temperature=1.0, seed=3, max_tokens=100)
            chunks = list(conversation.stream(messages, params))
            stats = chunks[-1].stats
            assert stats is not None
            assert chunks[-1].finish_reason == "stop"
            new = len(engine.pair.tokenizer.encode(f"<|end|><|user|>{text}<|end|><|assistant|>"))
            assert stats.prefill_tokens <= new + 1 + engine.config.page_size
            messages.append({"role": "assistant", "content": "".join(chunk.text for chunk in chunks)})
