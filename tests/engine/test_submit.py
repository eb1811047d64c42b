"""Requests from any number of threads, that join and leave what runs: each is answered as if it were alone."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from dataclasses import replace

import mlx.core as mx
import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.engine.execution.runner import Event
from helix_mlx.errors import ClosedError, PromptError, SettingsError
from helix_mlx.models.pair import Pair
from helix_mlx.request import Chunk, Request, SamplingParams
from tests.support import byte_tokenizer, plain, prompt, random_model, random_pair


@pytest.fixture(scope="module")
def pair() -> Pair:
    return random_pair()


def test_a_handle_gives_chunks_and_a_result(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        handle = engine.submit("Hello", max_tokens=20)
        chunks = list(handle)
        done = handle.result()
        assert done.text == "".join(chunk.text for chunk in chunks)
        assert done.tokens == plain(pair.target.model, pair.tokenizer.encode("Hello"), 20)
        assert chunks[-1].finish_reason == "length"
        assert handle.done
        assert engine.submit(Request("Hello", SamplingParams(max_tokens=20))).result().tokens == done.tokens
        message = [{"role": "user", "content": "Hello"}]
        assert engine.submit(message, max_tokens=9).result().text == engine.chat(message, max_tokens=9).text


def test_many_threads_submit(pair: Pair) -> None:
    expected = [plain(pair.target.model, prompt(5 + seed, seed), 25) for seed in range(12)]
    got: dict[int, list[int]] = {}
    with Engine(pair, EngineConfig(max_context=128, max_sequences=5)) as engine:

        def ask(seed: int) -> None:
            tokens = prompt(5 + seed, seed)
            got[seed] = [c.token for c in engine.submit(tokens, max_tokens=25) if c.token is not None]

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.metrics().running == engine.metrics().pages_used == 0
    assert [got[seed] for seed in range(12)] == expected


def test_async_readers_share_a_loop(pair: Pair) -> None:
    expected = [plain(pair.target.model, prompt(9, seed), 20) for seed in range(3)]

    async def read(engine: Engine, seed: int) -> list[int]:
        return [c.token async for c in engine.submit(prompt(9, seed), max_tokens=20) if c.token is not None]

    async def all_of_them(engine: Engine) -> list[list[int]]:
        return list(await asyncio.gather(*(read(engine, seed) for seed in range(3))))

    with Engine(pair, EngineConfig(max_context=128)) as engine:
        assert asyncio.run(all_of_them(engine)) == expected


def test_draft_lengths_and_drafters_differ_in_one_batch(pair: Pair) -> None:
    """Also with the target as its own draft, so that every draft is kept, to the last of each sequence's own K."""
    expected = [plain(pair.target.model, prompt(20 + seed, seed), 40) for seed in range(6)]
    for chosen in (pair, replace(pair, draft=pair.target)):
        with Engine(chosen, EngineConfig(max_context=128, max_rows=48)) as engine:
            handles = [
                engine.submit(prompt(20 + seed, seed), max_tokens=40, draft_tokens=count, drafter=drafter)
                for seed, (count, drafter) in enumerate(
                    [(0, None), (1, None), (4, None), (7, "model"), (4, "none"), (2, None)]
                )
            ]
            done = [handle.result() for handle in handles]
        assert [completion.tokens for completion in done] == expected
        assert done[0].stats.drafted == done[4].stats.drafted == 0
        assert done[4].settings["drafter"] == "none"
        assert all(completion.stats.drafted for index, completion in enumerate(done) if index not in (0, 4))
        assert len(done[3].stats.accepted_by_position) == 7
        if chosen.draft is chosen.target:
            assert all(completion.stats.accepted == completion.stats.drafted for completion in done[1:4])


@pytest.mark.parametrize("lookahead", [None, 0, 1])
def test_looking_up_needs_no_draft_model_and_says_the_same(pair: Pair, lookahead: int | None) -> None:
    """Prompts that repeat themselves, so that there is much to find; beside others that ask the model, or nobody."""
    prompts = [prompt(7, seed) * 6 for seed in range(4)]
    expected = [plain(pair.target.model, tokens, 40) for tokens in prompts]
    with Engine(pair, EngineConfig(max_context=128, drafter="ngram", lookahead=lookahead)) as engine:
        assert engine.pair.draft is None
        assert engine.has_draft
        done = engine.generate(prompts, max_tokens=40, draft_tokens=3)
        assert [one.tokens for one in done] == expected
        assert sum(one.stats.drafted for one in done) > 0
        assert all(one.stats.draft_passes == 0 for one in done)
        assert done[0].settings["drafter"] == "ngram"
    with Engine(pair, EngineConfig(max_context=128, max_rows=32, lookahead=lookahead)) as engine:
        for params in (SamplingParams(max_tokens=40), SamplingParams(max_tokens=40, temperature=0.8, seed=3)):
            alone = [engine.generate(tokens, params, draft_tokens=0).tokens for tokens in prompts]
            drafters = ("ngram", "model", "ngram", "none")
            handles = [engine.submit(t, params, drafter=d) for t, d in zip(prompts, drafters, strict=True)]
            assert [handle.result().tokens for handle in handles] == alone


def test_a_repetition_is_found(pair: Pair) -> None:
    """A target that says some things again: they come from what was looked up."""
    target = random_model("llama", num_hidden_layers=1, intermediate_size=16)
    with Engine(replace(pair, target=target, draft=None), EngineConfig(max_context=512, drafter="ngram")) as engine:
        done = engine.generate(prompt(9), max_tokens=300, draft_tokens=4)
    assert done.tokens == plain(target.model, prompt(9), 300)
    assert done.stats.accepted > 20


def test_seeded_requests_do_not_depend_on_their_company(pair: Pair) -> None:
    params = [SamplingParams(max_tokens=30, temperature=0.9, seed=seed, top_k=40) for seed in range(5)]
    with Engine(pair, EngineConfig(max_context=128)) as engine:
        alone = [engine.generate(prompt(11, seed), one, draft_tokens=0).tokens for seed, one in enumerate(params)]
        handles = [engine.submit(prompt(11, seed), one, draft_tokens=seed) for seed, one in enumerate(params)]
        assert [handle.result().tokens for handle in handles] == alone


def test_rows_of_a_pass_are_bounded(pair: Pair) -> None:
    """With many sequences each drafts less; the text is the same."""
    expected = [plain(pair.target.model, prompt(9, seed), 20) for seed in range(6)]
    with Engine(pair, EngineConfig(max_context=128, max_sequences=6, max_rows=18)) as engine:
        done = engine.generate([prompt(9, seed) for seed in range(6)], max_tokens=20, draft_tokens=7)
        assert [completion.tokens for completion in done] == expected
        # Six sequences in a pass of at most eighteen rows: two drafts each, until some have ended.
        assert done[0].stats.accepted_by_position
        assert all(completion.stats.drafted <= completion.stats.target_passes * 3 for completion in done)


def test_n_answers_share_the_prompts_pages(pair: Pair) -> None:
    tokens = prompt(100)
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        handle = engine.submit(tokens, n=4, max_tokens=30, temperature=0.8, seed=5)
        chunks: list[list[Chunk]] = [[], [], [], []]
        for chunk in handle:
            chunks[chunk.index].append(chunk)
        done = handle.results()
        assert [[c.token for c in each if c.token is not None] for each in chunks] == [one.tokens for one in done]
        assert len({tuple(one.tokens) for one in done}) == 4
        assert [one.stats.prefill_tokens for one in done] == [100, 1, 1, 1]
        assert engine.metrics().prefill_tokens == 103
        for index, one in enumerate(done):
            alone = engine.generate(tokens, max_tokens=30, temperature=0.8, seed=5 + index)
            assert alone.tokens == one.tokens
        with pytest.raises(SettingsError, match="4 answers"):
            handle.result()


def test_more_answers_than_run_at_once(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=256, max_sequences=3)) as engine:
        done = engine.submit(prompt(50), n=7, max_tokens=10, temperature=1.0, seed=1).results()
        assert [one.tokens for one in done] == [
            engine.generate(prompt(50), max_tokens=10, temperature=1.0, seed=1 + index).tokens for index in range(7)
        ]
        assert engine.memory().pages_used == 0


def test_an_exact_repeat_reads_the_last_page_at_most(pair: Pair) -> None:
    for length in (32, 33, 47, 48, 49, 100):
        with Engine(pair, EngineConfig(max_context=256)) as engine:
            first = engine.generate(prompt(length), max_tokens=20)
            again = engine.generate(prompt(length), max_tokens=20)
            assert first.stats.prefill_tokens == length
            assert again.stats.prefill_tokens <= 16
            assert again.stats.prefill_tokens + again.stats.prefix_hit_tokens == length
            assert again.tokens == first.tokens


def test_a_shared_beginning_is_read_once(pair: Pair) -> None:
    system = prompt(64, 1)
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        for seed in range(2, 5):
            tokens = system + prompt(20, seed)
            done = engine.generate(tokens, max_tokens=20)
            assert done.tokens == plain(pair.target.model, tokens, 20)
            assert done.stats.prefix_hit_tokens == (0 if seed == 2 else 64)


def test_without_the_prefix_cache_nothing_is_kept(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=256, prefix_cache=False)) as engine:
        for _ in range(2):
            assert engine.generate(prompt(50), max_tokens=20).stats.prefix_hit_tokens == 0
        assert engine.memory().pages_cached == 0


def test_preempted_sequences_come_back_with_the_same_tokens(pair: Pair) -> None:
    """Seven pages for three answers that need four each: the younger ones give theirs up, and read again."""
    with Engine(pair, EngineConfig(max_context=64)) as roomy:
        per_page = roomy.memory().bytes // (roomy.memory().pages_total + 1)
    for params in (SamplingParams(max_tokens=56), SamplingParams(max_tokens=56, temperature=0.9, seed=3)):
        with Engine(pair, EngineConfig(max_context=64, kv_memory=8 * per_page)) as tight:
            alone = [tight.generate(prompt(8, seed), params).tokens for seed in range(3)]
            done = tight.generate([prompt(8, seed) for seed in range(3)], params)
            assert [one.tokens for one in done] == alone
            assert sum(one.stats.preemptions for one in done) == tight.metrics().preemptions > 0
            assert done[0].stats.preemptions == 0
            assert tight.memory().pages_used == 0


def test_a_higher_priority_goes_first(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=256, max_sequences=1)) as engine:
        first = engine.submit(prompt(9), max_tokens=100)
        late = engine.submit(prompt(9, 1), max_tokens=5)
        urgent = engine.submit(prompt(9, 2), max_tokens=5, priority=1)
        times = [handle.result().stats.time_to_first_token_s for handle in (first, late, urgent)]
        assert times[2] < times[1]


@pytest.mark.parametrize("page_size", [16, 1024])
def test_cancelling_a_request_that_runs_and_one_that_waits(pair: Pair, page_size: int) -> None:
    """At once, and not only where a page is full and nothing is in flight."""
    with Engine(pair, EngineConfig(max_context=4096, max_sequences=1, page_size=page_size)) as engine:
        running = engine.submit(prompt(9), max_tokens=4000, draft_tokens=0)
        waiting = engine.submit(prompt(9, 1), max_tokens=4000, draft_tokens=0)
        next(iter(running))
        for handle in (waiting, running):
            handle.cancel()
            assert handle.wait(60)
            assert handle.result().finish_reason == "cancelled"
        assert waiting.result().tokens == []
        assert 0 < len(running.result().tokens) < 1000
        assert engine.memory().pages_used == 0


def test_an_error_in_a_step_reaches_all_who_wait_and_the_engine_goes_on(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(pair, EngineConfig(max_context=256)) as engine:
        with monkeypatch.context() as patched:
            patched.setattr(mx, "synchronize", lambda: 1 / 0)
            handles = [engine.submit(prompt(9, seed), max_tokens=30) for seed in range(2)]
            for handle in handles:
                with pytest.raises(ZeroDivisionError):
                    handle.result()
        assert engine.memory().pages_used == engine.memory().pages_cached == 0
        assert engine.generate(prompt(9), max_tokens=5).tokens == plain(pair.target.model, prompt(9), 5)


def test_closing_ends_the_thread_and_all_that_waits(pair: Pair) -> None:
    before = set(threading.enumerate())
    engine = Engine(pair, EngineConfig(max_context=4096, max_sequences=1))
    handles = [engine.submit(prompt(9, seed), max_tokens=4000) for seed in range(3)]
    next(iter(handles[0]))
    engine.close()
    assert set(threading.enumerate()) == before
    for handle in handles:
        with pytest.raises(ClosedError):
            handle.result()
    with pytest.raises(ClosedError):
        engine.submit(prompt(9))
    with pytest.raises(ClosedError):
        engine.metrics()


def test_closing_and_errors_reach_answers_that_wait_for_their_prompt(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are neither running nor waiting until their prompt has been read."""
    config = EngineConfig(max_context=4096, prefill_chunk=8)
    engine = Engine(pair, config)
    handle = engine.submit(prompt(2000), n=3, max_tokens=5)
    engine.close()
    with pytest.raises(ClosedError):
        handle.results(60)
    with Engine(pair, config) as engine:
        with monkeypatch.context() as patched:
            patched.setattr(mx, "synchronize", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                engine.submit(prompt(2000), n=3, max_tokens=5).results(60)
        assert len(engine.submit(prompt(50), n=3, max_tokens=5).results(60)) == 3
        assert engine.memory().pages_used == 0


def test_a_reader_that_is_collected_on_the_engines_thread_ends_its_answer(pair: Pair) -> None:
    """Garbage is collected on whatever thread allocates: there nobody may wait for the engine."""
    with Engine(pair, EngineConfig(max_context=4096)) as engine:
        stream = engine.stream(prompt(9), max_tokens=4000)
        next(stream)
        cycle: list[object] = [stream]
        cycle.append(cycle)
        step = engine._core.runner.step

        def collecting() -> list[Event]:
            gc.collect()
            return step()

        engine._core.runner.step = collecting  # type: ignore[method-assign]
        del stream, cycle
        assert engine.submit(prompt(9, 1), max_tokens=20).result(60).finish_reason == "length"
        while engine.metrics().running:
            time.sleep(0.01)
        assert engine.memory().pages_used == 0


def test_a_handle_or_a_stream_keeps_its_engine(pair: Pair) -> None:
    expected = plain(pair.target.model, prompt(9), 20)
    config = EngineConfig(max_context=64)
    assert Engine(pair, config).submit(prompt(9), max_tokens=20).result(60).tokens == expected
    chunks = list(Engine(pair, config).stream(prompt(9), max_tokens=20))
    assert [chunk.token for chunk in chunks[:-1]] == expected


def test_a_loop_that_has_ended_disturbs_nobody(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=4096)) as engine:
        handle = engine.submit(prompt(9), max_tokens=2000)

        async def leave() -> None:
            async for _ in handle:
                break

        asyncio.run(leave())
        loop = asyncio.new_event_loop()
        handle._waiters.append((loop, loop.create_future()))
        loop.close()
        assert engine.submit(prompt(9, 1), max_tokens=20).result(60).finish_reason == "length"
        handle.cancel()
        # Whoever leaves a loop and comes back misses nothing.
        rest = [chunk.token for chunk in handle if chunk.token is not None]
        assert rest == handle.result(60).tokens[1:]


def test_an_engine_that_is_dropped_takes_its_thread_along(pair: Pair) -> None:
    before = set(threading.enumerate())
    engine = Engine(pair, EngineConfig(max_context=64))
    engine.generate(prompt(9), max_tokens=2)
    (thread,) = set(threading.enumerate()) - before
    del engine
    thread.join(30)
    assert not thread.is_alive()


def test_a_program_ends_as_it_should_with_its_engines_open_or_just_closed() -> None:
    """MLX's streams of a thread have to go before the thread does: otherwise the interpreter may abort at its end."""
    program = (
        "from helix_mlx.engine.engine import Engine\n"
        "from helix_mlx.config import EngineConfig\n"
        "from tests.support import prompt, random_pair\n"
        "pair = random_pair()\n"
        "engines = [Engine(pair, EngineConfig(max_context=64)) for _ in range(4)]\n"
        "for engine in engines: engine.generate(prompt(9), max_tokens=3)\n"
        "engines[0].submit(prompt(9), max_tokens=50)\n"
        "for engine in engines[1:]: engine.close()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_arrays_that_a_model_makes_lazily_cross_to_the_engines_thread() -> None:
    """Llama 3's rope computes its frequencies when the model is built, on the thread that builds it."""
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    target = random_model("llama", rope_scaling=scaling)
    pair = Pair("llama3", target, random_model("llama", 3, rope_scaling=scaling), byte_tokenizer())
    with Engine(pair, EngineConfig(max_context=128)) as engine:
        assert engine.generate(prompt(30), max_tokens=20).tokens == plain(target.model, prompt(30), 20)


def test_what_a_submission_refuses(pair: Pair) -> None:
    with Engine(pair, EngineConfig(max_context=64)) as engine:
        with pytest.raises(PromptError, match="70 tokens but the context holds 64"):
            engine.submit(prompt(70))
        with pytest.raises(SettingsError, match="n is 0"):
            engine.submit("a", n=0)
        with pytest.raises(SettingsError, match="drafter is eagle"):
            engine.submit("a", drafter="eagle")
        with pytest.raises(SettingsError, match="draft-tokens is 9"):
            engine.submit("a", draft_tokens=9)
        with pytest.raises(SettingsError, match="either a Request"):
            engine.submit(Request("a"), max_tokens=3)
        assert engine.metrics().requests == 0
        per_page = engine.memory().bytes // (engine.memory().pages_total + 1)
    cut = EngineConfig(kv_memory=140 * per_page)
    with Engine(pair, cut) as small, pytest.raises(PromptError, match="2224; shorten it, or raise --kv-memory"):
        small.submit(prompt(2300))
    with pytest.raises(SettingsError, match="max-rows is 4"):
        EngineConfig(max_rows=4, max_sequences=5)
