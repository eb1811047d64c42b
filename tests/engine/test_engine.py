"""The facade: what comes back, what is refused, and that everything is given back."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any
from unittest.mock import Mock

import mlx.core as mx
import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import ClosedError, HelixError, MemoryBudgetError, PromptError, SettingsError
from helix_mlx.models.pair import Pair
from helix_mlx.request import SamplingParams
from tests.support import byte_tokenizer, grow_whole, plain, pool_addresses, prompt, random_model, random_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return random_pair()


@pytest.fixture(scope="module")
def small() -> Pair:
    """The smallest pair there is, for what has to be done many times."""
    target = random_model("llama", num_hidden_layers=1, intermediate_size=16)
    draft = random_model("llama", 3, num_hidden_layers=1, intermediate_size=16)
    return Pair("small", target, draft, byte_tokenizer())


def test_a_stream_adds_up_to_the_completion(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        whole = engine.generate("Hello", max_tokens=20)
        chunks = list(engine.stream("Hello", max_tokens=20))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.token for chunk in chunks[:-1]] == whole.tokens
    assert [chunk.finish_reason for chunk in chunks] == [None] * 20 + ["length"]
    assert chunks[-1].stats is not None
    assert chunks[-1].stats.emitted == 20
    assert whole.prompt_tokens == 5
    assert whole.finish_reason == "length"
    assert whole.settings["draft_tokens"] == "auto"
    assert whole.settings["verification"] == "greedy"


def test_an_end_token_ends_the_answer_and_is_not_shown(pair: Pair) -> None:
    tokens = plain(pair.target.model, prompt(9), 40)
    end = tokens[17]
    assert end not in tokens[:17]
    with Engine(replace(pair, tokenizer=byte_tokenizer((end,))), EngineConfig(max_context=256)) as engine:
        for count in (0, 4, 7):
            completion = engine.generate(prompt(9), max_tokens=40, draft_tokens=count)
            assert completion.tokens == tokens[:18]
            assert completion.finish_reason == "stop"
            assert completion.text == pair.tokenizer.decode(tokens[:17])


def test_a_stop_string_ends_the_answer(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        text = engine.generate(prompt(9), max_tokens=40).text
        for count in (0, 4):
            stopped = engine.generate(prompt(9), max_tokens=40, stop=text[20:23], draft_tokens=count)
            assert stopped.text == text[: text.find(text[20:23])]
            assert stopped.finish_reason == "stop"


def test_a_draft_whose_logits_are_padded_otherwise(pair: Pair) -> None:
    expected = plain(pair.target.model, prompt(9), 30)
    for width in (4, 80, 128):
        draft = random_model("llama", 7, vocab_size=width)
        with Engine(replace(pair, draft=draft), EngineConfig(max_context=256)) as engine:
            assert engine.generate([9, 8, 7], max_tokens=5, temperature=1.0).stats.emitted == 5
            assert engine.generate(prompt(9), max_tokens=30).tokens == expected


def test_the_context_ends_the_answer(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=32)) as engine:
        completion = engine.generate(prompt(20), max_tokens=500)
    assert len(completion.tokens) == 12
    assert completion.finish_reason == "length"


def test_a_batch_that_does_not_fit_runs_in_groups(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=64)) as roomy:
        expected = [roomy.generate(prompt(20, seed), max_tokens=20).tokens for seed in range(5)]
        per_page = roomy.memory().bytes // (roomy.memory().pages_total + 1)
    with Engine(pair, EngineConfig(max_context=48, kv_memory=7 * per_page)) as tight:
        assert tight.memory().budget == 7 * per_page
        done = tight.generate([prompt(20, seed) for seed in range(5)], max_tokens=20)
        assert [completion.tokens for completion in done] == expected
        assert tight.memory().pages_used == 0


@pytest.mark.parametrize("laps", [3, pytest.param(26, id="a thousand", marks=pytest.mark.slow)])
def test_cancelled_generations_leave_nothing_behind(small: Pair, laps: int) -> None:
    """Cancelled behind each of an answer's tokens, and when it has ended, for each draft length, in each lap."""
    cases = list(product((0, 2, 4), range(13)))
    with Engine(small, EngineConfig(max_context=64, page_size=8, prefill_chunk=16)) as engine:
        addresses = pool_addresses(engine._core)
        memory = []
        for lap in range(laps):
            for number, (draft_tokens, stop_at) in enumerate(cases):
                tokens = prompt(1 + (17 * lap + number) % 40, lap * len(cases) + number)
                stream = engine.stream(tokens, max_tokens=12, draft_tokens=draft_tokens)
                for count, _ in enumerate(stream):
                    if count == stop_at:
                        break
                stream.close()
                assert engine.memory().pages_used == 0
            memory.append(mx.get_active_memory())
        assert max(memory[1:]) <= memory[0] + 4096
        assert pool_addresses(engine._core) == addresses


@pytest.mark.parametrize("lookahead", [None, 0, 1])
def test_commits_never_move_the_pool(small: Pair, lookahead: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over hundreds of commits in running answers, each array of the pool stays where it lay."""
    with Engine(small, EngineConfig(max_context=512, page_size=1, lookahead=lookahead)) as engine:
        grow_whole(engine._core)
        addresses = pool_addresses(engine._core)
        write = Mock(wraps=engine._core.pool.write)
        monkeypatch.setattr(engine._core.pool, "write", write)
        for seed in range(2):
            engine.generate([prompt(9, seed), prompt(30, seed)], max_tokens=300, draft_tokens=3)
            assert pool_addresses(engine._core) == addresses
        assert write.call_count > 500


@pytest.mark.parametrize("lookahead", [None, 0, 1])
def test_the_host_waits_once_a_cycle(pair: Pair, lookahead: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where MLX can be made to wait: a cycle waits at most once, commits included."""
    waits = [Mock(wraps=mx.eval), Mock(wraps=mx.synchronize)]
    monkeypatch.setattr(mx, "eval", waits[0])
    monkeypatch.setattr(mx, "synchronize", waits[1])
    for chosen in (pair, replace(pair, draft=pair.target)):
        with Engine(chosen, EngineConfig(max_context=256, lookahead=lookahead, page_size=4)) as engine:
            for count in (0, 1, 4):
                before = sum(mock.call_count for mock in waits)
                stats = engine.generate(prompt(9), max_tokens=60, draft_tokens=count).stats
                prefills_and_end = 3
                assert stats.host_syncs == stats.target_passes + 1
                assert sum(mock.call_count for mock in waits) - before <= stats.host_syncs + prefills_and_end
                assert stats.draft_passes == count * stats.target_passes


def test_those_who_wait_do_not_keep_cycles_from_running_ahead(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another cycle enqueued, nobody has to wait for the whole device before a token is read."""
    waits = Mock(wraps=mx.synchronize)
    monkeypatch.setattr(mx, "synchronize", waits)
    with Engine(pair, EngineConfig(max_context=256, max_sequences=2)) as engine:
        handles = [engine.submit(prompt(9, seed), max_tokens=97, draft_tokens=0) for seed in range(6)]
        for seed, handle in enumerate(handles):
            assert handle.result().tokens == plain(pair.target.model, prompt(9, seed), 97)
    commits, begins_and_ends = 6, 4
    assert waits.call_count <= len(handles) * (commits + begins_and_ends)


def test_cancelling_between_passes(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=4096)) as engine:
        asked = iter([False] * 6)
        chunks = list(engine.stream(prompt(9), max_tokens=4000, cancel=lambda: next(asked, True)))
        assert chunks[-1].finish_reason == "cancelled"
        assert chunks[-1].stats is not None
        assert 0 < chunks[-1].stats.emitted < 4000
        at_once = list(engine.stream(prompt(9), cancel=lambda: True))
        assert at_once[-1].finish_reason == "cancelled"
        assert not any(c.text for c in at_once)
        assert engine.memory().pages_used == 0


def test_a_stream_that_is_never_begun_takes_nothing(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        pages = engine.memory().pages_total
        for _ in range(pages + 1):
            engine.stream(prompt(9), max_tokens=200)
        assert engine.generate(prompt(9), max_tokens=200).finish_reason == "length"


def test_progress_counts_prefilled_tokens(pair: Pair) -> None:
    told: list[tuple[int, int]] = []
    with Engine(pair, EngineConfig(max_context=256, prefill_chunk=16)) as engine:
        list(engine.stream(prompt(50), max_tokens=2, progress=lambda done, total: told.append((done, total))))
    assert told == [(16, 49), (32, 49), (48, 49), (49, 49)]


def test_memory_says_what_is_held(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=4096)) as engine:
        assert engine.memory().unused_fraction == 0.0
        stream = engine.stream(prompt(100), max_tokens=3900)
        next(stream)
        report = engine.memory()
        assert 6 <= report.pages_used < report.pages_total
        assert report.bytes == engine._core.pool.nbytes
        assert 0 < report.unused_fraction < 1
        stream.close()
        report = engine.memory()
        assert report.pages_used == 0
        assert report.pages_cached >= 6


def test_what_is_refused(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=64)) as engine:
        with pytest.raises(PromptError, match="empty"):
            engine.generate("")
        with pytest.raises(PromptError, match="70 tokens but the context holds 64"):
            engine.generate(prompt(70))
        with pytest.raises(SettingsError, match="draft-tokens is 9"):
            engine.generate("a", draft_tokens=9)
        with pytest.raises(SettingsError, match="temperature is -1"):
            engine.generate("a", temperature=-1)
        assert engine.memory().pages_used == 0
    with pytest.raises(ClosedError):
        engine.generate("a")
    with pytest.raises(MemoryBudgetError, match="raise --kv-memory to at least"):
        Engine(pair, EngineConfig(kv_memory=100))
    with pytest.raises(MemoryBudgetError, match="fewer than the 512"):
        Engine(pair, EngineConfig(kv_memory=100_000, max_context=512))
    with pytest.raises(SettingsError, match="made for 4096"):
        Engine(pair, EngineConfig(max_context=10_000))
    with pytest.raises(HelixError, match="between 0"):
        EngineConfig(draft_tokens=9)


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([5, 100_000], {}, "token ids outside the model's range, 0 to 95"),
        ([5, -3], {}, "token ids outside"),
        ([5, 2**40], {}, "token ids"),
        (None, {}, "a prompt must be text or a list of token ids"),
        ([None], {}, "a prompt must be text or a list of token ids"),
        ([], {}, "empty"),
        ("a\ud83d", {}, "half a character at 1"),
        ("a", {"seed": 1.5}, "seed is 1.5"),
        ("a", {"top_k": 2.5}, "top-k is 2.5"),
        ("a", {"temperature": "1"}, "temperature is 1"),
        ("a", {"stop": (1,)}, "stop is"),
        ("a", {"stop": ""}, "stop is"),
        ("a", {"max_tokens": 0}, "max-tokens is 0"),
        ("a", {"top_q": 0.5}, r"there is no setting top_q \(did you mean top_p\?\); choose from max_tokens"),
        ("a", {"draft_tokens": 2.5}, "draft-tokens is 2.5"),
        ("a", {"params": SamplingParams(), "top_p": 0.5}, "give either a SamplingParams or single settings"),
        (["a", "b"], {"params": [SamplingParams()]}, "1 params for 2 prompts"),
    ],
)
def test_mistakes_of_a_caller_are_named(pair: Pair, prompt: Any, settings: dict[str, Any], message: str) -> None:
    with Engine(pair, EngineConfig(max_context=64)) as engine:
        with pytest.raises(HelixError, match=message):
            engine.generate(prompt, **settings)
        assert engine.memory().pages_used == 0


def test_mistakes_in_messages_are_named(pair: Pair) -> None:
    wrong: list[Any] = ["hello", [], [{"role": "user"}], [{"role": "user", "content": None}]]
    with Engine(pair, EngineConfig(max_context=64)) as engine:
        for messages in wrong:
            with pytest.raises(PromptError):
                engine.chat(messages)


def test_a_bad_prompt_in_a_list_is_found_before_any_work(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=64)) as engine:
        with pytest.raises(PromptError, match="70 tokens"):
            engine.generate([prompt(3), prompt(70)])
        assert engine.metrics().requests == 0


def test_a_configuration_without_a_drafter_has_no_draft(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=64, drafter="none")) as engine:
        completion = engine.generate(prompt(9), max_tokens=20)
    assert completion.stats.drafted == 0
    assert completion.settings["drafter"] == "none"


def test_a_draft_is_not_asked_beyond_its_own_context(pair: Pair) -> None:
    assert pair.draft is not None
    short = replace(pair, draft=replace(pair.draft, max_context=64))
    expected = plain(pair.target.model, prompt(40), 100)
    with Engine(short, EngineConfig(max_context=256)) as engine:
        completion = engine.generate(prompt(40), max_tokens=100, draft_tokens=4)
        assert completion.tokens == expected
        assert 0 < completion.stats.drafted < 64
        assert engine.generate(prompt(70), max_tokens=10, draft_tokens=4).stats.drafted == 0


def test_cancelling_while_the_draft_reads_the_prompt(pair: Pair) -> None:
    """A step at a time: after the first token the draft reads for many steps."""
    with Engine(pair, EngineConfig(max_context=512, prefill_chunk=8)) as engine:
        core = engine._core
        sequence = core.sequence(prompt(400), SamplingParams(max_tokens=50), 4)
        core.runner.add(sequence)
        while not sequence.emitted:
            core.runner.step()
        core.runner.step()
        assert 0 < sequence.kv.draft_length < sequence.length - 1
        sequence.cancel_wanted = True
        ((_, chunks),) = core.runner.step()
        assert chunks[-1].finish_reason == "cancelled"
        assert core.pool.allocator.pages_used == 0


def test_closing_the_engine_ends_an_open_stream(pair: Pair) -> None:
    engine = Engine(pair, EngineConfig(max_context=4096))
    stream = engine.stream(prompt(9), max_tokens=4000)
    next(stream)
    engine.close()
    with pytest.raises(ClosedError):
        list(stream)


def test_a_reader_that_takes_its_time_holds_nobody_up(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        assert engine.generate(prompt(100), max_tokens=1).stats.prefill_tokens == 100
        handle = engine.submit(prompt(9), max_tokens=40)
        assert handle.wait(60)
        chunks = list(handle)
    assert sum(chunk.token is not None for chunk in chunks) == 40
    assert chunks[-1].stats is not None


def test_two_streams_share_an_engine(pair: Pair) -> None:
    """Chunks taken in turn from two answers are those of each alone."""
    with Engine(pair, EngineConfig(max_context=128, lookahead=1)) as engine:
        params = SamplingParams(max_tokens=60)
        expected = [engine.generate(prompt(9, seed), params).tokens for seed in range(2)]
        streams = [engine.stream(prompt(9, seed), params) for seed in range(2)]
        got: list[list[int]] = [[], []]
        for chunks in zip(*streams, strict=True):
            for tokens, chunk in zip(got, chunks, strict=True):
                tokens += [chunk.token] if chunk.token is not None else []
        assert got == expected


def test_the_context_of_a_model_that_does_not_say_its_limit_can_be_raised(pair: Pair) -> None:
    unsaid = replace(pair, target=replace(pair.target, max_context=None), draft=None)
    for wanted, context in ((None, 4096), (8192, 8192)):
        with Engine(unsaid, EngineConfig(max_context=wanted, kv_memory=10**8)) as engine:
            assert engine.config.max_context == context
    with pytest.raises(SettingsError, match="was made for 4096 positions"):
        Engine(pair, EngineConfig(max_context=8192, kv_memory=10**8))
