"""A conversation finds its pages again: a turn reads only what is new, and says what a fresh reading would."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.conversation import Conversation
from helix_mlx.engine.engine import Engine
from helix_mlx.models.pair import Pair
from helix_mlx.request import SamplingParams, Stats
from tests.support import byte_tokenizer, plain, random_pair
from tests.tokenizer_kinds import LINES, tokenizer_of

PARAMS = SamplingParams(max_tokens=30)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """With an end token that comes after some twenty tokens of the first answer."""
    pair = random_pair()
    opening = pair.tokenizer.encode_chat([{"role": "user", "content": "first"}])
    answer = plain(pair.target.model, opening, 30)
    end = next(token for index, token in enumerate(answer) if index > 8 and token not in answer[:index])
    return replace(pair, tokenizer=byte_tokenizer((end,)))


def turn(
    conversation: Conversation, messages: list[dict[str, str]], params: SamplingParams = PARAMS
) -> tuple[str, Stats]:
    chunks = list(conversation.stream(messages, params))
    stats = chunks[-1].stats
    assert stats is not None
    return "".join(chunk.text for chunk in chunks), stats


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.8, "seed": 5}])
def test_turns_say_what_a_fresh_reading_says_and_prefill_only_what_is_new(pair: Pair, settings: dict[str, Any]) -> None:
    params = SamplingParams(max_tokens=30, **settings)
    config = EngineConfig(max_context=1024)
    with Engine(pair, config) as engine, Engine(pair, replace(config, prefix_cache=False)) as forgetful:
        conversation = engine.conversation()
        messages: list[dict[str, str]] = []
        for text in ("first", "second question", "and a third one", "four"):
            messages.append({"role": "user", "content": text})
            fresh = forgetful.chat(messages, params)
            assert fresh.stats.prefix_hit_tokens == 0
            answer, stats = turn(conversation, messages, params)
            assert answer == fresh.text
            new = len(f"</><user>{text}</><assistant>")
            assert stats.prefill_tokens <= new + 1 + config.page_size
            assert stats.prefill_tokens + stats.prefix_hit_tokens == fresh.prompt_tokens
            messages.append({"role": "assistant", "content": answer})
        assert engine.memory().pages_used == 0
        assert engine.memory().pages_cached > 0


@pytest.mark.parametrize("kind", ["byte-level", "llama", "gemma", "unigram"])
def test_what_was_shown_is_what_the_next_turn_reads(kind: str) -> None:
    """The tokens of an answer and those of the turn behind it decode to the conversation's text."""
    tokenizer = tokenizer_of(kind)
    said, end = tokenizer.encode_rendered(LINES[0])[:12], tokenizer.vocab["</s>"]
    with Engine(replace(random_pair(draft=None, vocab_size=512), tokenizer=tokenizer)) as engine:
        conversation = engine.conversation()
        messages = [{"role": "user", "content": "It"}]
        conversation.stream(messages, max_tokens=50).close()
        last = conversation._last
        assert last is not None
        for token in (*said, end):
            last.accept([token], 0)
        last.finish_text()
        messages += [{"role": "assistant", "content": last.answer.text}, {"role": "user", "content": "one"}]
        conversation.stream(messages, max_tokens=50).close()
        following = conversation._last
        assert following is not None
        assert following.tokens[: len(last.tokens) - 1] == last.tokens[:-1]
        whole, rendered = tokenizer.decode(following.tokens), tokenizer.render_chat(messages)
        assert whole.lstrip() == rendered


def test_a_conversation_that_turns_elsewhere(pair: Pair) -> None:
    """Another system text, a shorter history, an edited message: each is read from where it differs."""
    histories = [
        [{"role": "user", "content": "tell me about pages and tails"}],
        [{"role": "user", "content": "tell me about pages and trees"}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "tell me"}],
        [{"role": "user", "content": "tell me about pages and tails"}],
        [{"role": "user", "content": "t"}],
    ]
    with Engine(pair, EngineConfig(max_context=1024, page_size=8)) as engine, engine.conversation() as conversation:
        for messages in histories:
            assert turn(conversation, messages)[0] == engine.chat(messages, PARAMS).text


def test_an_answer_left_in_the_middle(pair: Pair) -> None:
    """A reader that goes away, or cancels, leaves a conversation that goes on rightly."""
    with Engine(pair, EngineConfig(max_context=1024, lookahead=1, prefill_chunk=7)) as engine:
        with engine.conversation() as conversation:
            messages = [{"role": "user", "content": "first"}]
            stream = conversation.stream(messages, PARAMS)
            partial = "".join(next(stream).text for _ in range(4))
            messages += [{"role": "assistant", "content": partial}, {"role": "user", "content": "go on"}]
            asked = iter([False] * 4)
            cut = "".join(c.text for c in conversation.stream(messages, PARAMS, cancel=lambda: next(asked, True)))
            messages += [{"role": "assistant", "content": cut}, {"role": "user", "content": "and now"}]
            conversation.stream(messages, PARAMS)  # never begun
            list(conversation.stream(messages, PARAMS, cancel=lambda: True))  # ends while it reads
            assert turn(conversation, messages)[0] == engine.chat(messages, PARAMS).text
        assert engine.memory().pages_used == 0


def test_drafts_switched_off_and_on_between_turns(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=1024)) as engine, engine.conversation() as conversation:
        messages: list[dict[str, str]] = []
        for count in (0, 4, 0, 0, 7, 1):
            messages.append({"role": "user", "content": f"turn with {count}"})
            chunks = list(conversation.stream(messages, PARAMS, draft_tokens=count))
            answer = "".join(chunk.text for chunk in chunks)
            assert answer == engine.chat(messages, PARAMS, draft_tokens=0).text
            messages.append({"role": "assistant", "content": answer})


@pytest.mark.parametrize("seed", range(6))
def test_random_conversations_say_what_a_fresh_reading_says(pair: Pair, seed: int) -> None:
    """With a draft that is always right, so that answers end at any place of a page, and with turns cut short."""
    chance = random.Random(seed)
    config = EngineConfig(
        max_context=600,
        page_size=chance.choice((1, 2, 8, 16)),
        lookahead=seed % 2,
        prefill_chunk=chance.choice((7, 24, 512)),
    )
    fresh = replace(config, prefix_cache=False)
    agreeing = replace(pair, draft=pair.target)
    with Engine(agreeing, config) as engine, Engine(agreeing, fresh) as forgetful:
        conversation = engine.conversation()
        messages: list[dict[str, str]] = []
        for turn_ in range(8):
            if chance.random() < 0.2:
                messages = messages[: chance.randrange(len(messages) + 1) // 2 * 2]
            content = "".join(chance.choices("abc defgh", k=chance.randint(1, 40)))
            messages.append({"role": "user", "content": content})
            params = SamplingParams(max_tokens=chance.randint(1, 50), temperature=0.9, seed=turn_)
            count = chance.choice((0, 1, 4, 7))
            left = iter([False] * chance.randint(0, 12))
            cut = chance.random() < 0.3
            cancel = (lambda left=left: next(left, True)) if cut else None
            answer = "".join(c.text for c in conversation.stream(messages, params, draft_tokens=count, cancel=cancel))
            expected = forgetful.chat(messages, params, draft_tokens=0).text
            assert expected.startswith(answer) if cut else answer == expected
            messages.append({"role": "assistant", "content": answer})
        assert engine.memory().pages_used == 0


def test_an_error_in_the_middle_is_not_remembered(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read before an error cannot be trusted; the next turn reads everything again, and rightly."""
    with (
        Engine(pair, EngineConfig(max_context=512, page_size=8, draft_tokens=4)) as engine,
        engine.conversation() as conversation,
    ):
        messages = [{"role": "user", "content": "tell me about pages and tails"}]
        waits = iter(range(100))

        def fails() -> None:
            if next(waits) == 5:
                raise RuntimeError("the device is gone")

        with monkeypatch.context() as patched:
            patched.setattr(mx, "synchronize", fails)
            with pytest.raises(RuntimeError, match="the device is gone"):
                turn(conversation, messages)
        answer, stats = turn(conversation, messages)
        assert answer == engine.chat(messages, PARAMS).text
        assert stats.prefill_tokens == len(engine.pair.tokenizer.encode_chat(messages))


def test_a_conversation_that_is_dropped_gives_its_pages_back() -> None:
    with Engine(random_pair(), EngineConfig(max_context=4096)) as engine:
        conversation = engine.conversation()
        stream = conversation.stream([{"role": "user", "content": "tell me"}], max_tokens=3000, stop="never said")
        next(stream)
        assert engine.metrics().running == 1
        del stream, conversation
        gc.collect()
        assert engine.metrics().running == 0
        assert engine.memory().pages_used == 0
