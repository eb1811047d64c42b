from __future__ import annotations

import json
import os
import signal
import threading

import pytest

from tests.cli.conftest import Run
from tests.cli.fakes import FakeEngine


def test_the_answer_goes_to_standard_output(engine: FakeEngine, run: Run) -> None:
    result = run("generate", "hello")
    assert result.exit_code == 0
    assert result.stdout == "You said hello\n"
    assert result.stderr == ""


def test_standard_input_is_the_prompt(engine: FakeEngine, run: Run) -> None:
    assert run("generate", text="one\ntwo\n").stdout == "You said one\ntwo\n"
    assert run("generate", "-", text="three").stdout == "You said three\n"


def test_a_byte_order_mark_is_no_part_of_a_prompt(engine: FakeEngine, run: Run) -> None:
    assert run("generate", text="\ufeffone\n").stdout == "You said one\n"
    assert run("generate", "\ufeffone").stdout == "You said one\n"
    assert run("chat", text="\ufeffone\n").stdout == "You said one\n"
    empty = run("generate", "--raw", text="\ufeff\n")
    assert (empty.exit_code, engine.talk.asked[3:]) == (2, [])


def test_the_chat_template_is_used_unless_raw(engine: FakeEngine, run: Run) -> None:
    run("generate", "hello", "--system", "Be brief.")
    run("generate", "hello", "--raw")
    (first, _, _), (second, _, _) = engine.talk.asked
    assert first == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert second == [{"role": "raw", "content": "hello"}]


def test_json_is_one_object(engine: FakeEngine, run: Run) -> None:
    result = run("generate", "grüße", "--json", "--temperature", "0.5")
    assert result.stdout.count("\n") == 1
    answer = json.loads(result.stdout)
    assert answer["text"] == "You said grüße"
    assert answer["tokens"] == [0, 1, 2]
    assert answer["finish_reason"] == "stop"
    assert answer["prompt_tokens"] == 7
    assert answer["settings"]["temperature"] == 0.5
    counted = {"emitted", "drafted", "accepted", "accepted_by_position", "target_passes", "draft_passes", "host_syncs"}
    measured = {"prefill_s", "time_to_first_token_s", "decode_s", "tokens_per_s"}
    assert counted | measured <= set(answer["stats"])


def test_the_settings_reach_the_engine(engine: FakeEngine, run: Run) -> None:
    words = "--max-tokens 9 --temperature 0.7 --top-p 0.9 --top-k 40 --min-p 0.1 --seed 3 --verification coupled"
    run("generate", "hello", *words.split(), "--stop", "a b", "--stop", "c", "--draft-tokens", "2", "--lookahead", "1")
    params = engine.talk.asked[0][1]
    assert params is not None
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (9, 0.7, 0.9, 40)
    assert (params.min_p, params.seed, params.verification, params.stop) == (0.1, 3, "coupled", ("a b", "c"))
    assert (engine.config.draft_tokens, engine.config.lookahead) == (2, 1)


def test_sizes_are_read_with_their_units(engine: FakeEngine, run: Run) -> None:
    run("generate", "hello", "--kv-memory", "2GiB", "--page-size", "32", "--draft-tokens", "auto")
    assert engine.config.kv_memory == 2 * 2**30
    assert engine.config.page_size == 32
    assert engine.config.draft_tokens is None


def test_ctrl_c_ends_the_answer_with_what_there_was(engine: FakeEngine, run: Run) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    result = run("generate", "for ever")
    assert result.exit_code == 130
    assert result.stdout.startswith(" 1 2")
    assert result.stdout.endswith("\n")


def test_the_built_in_pair_says_the_same_with_and_without_drafts(run: Run) -> None:
    words = ["generate", "What is Helix?", "--pair", "tiny", "--json", "--max-tokens", "24"]
    drafted, plain = (json.loads(run(*words, "--draft-tokens", count).stdout) for count in ("4", "0"))
    assert drafted["text"] == plain["text"]
    assert drafted["tokens"] == plain["tokens"]
    assert drafted["settings"]["pair"] == "tiny"
    assert drafted["stats"]["target_passes"] < plain["stats"]["target_passes"]
    assert plain["stats"]["drafted"] == 0


@pytest.mark.parametrize("max_rows", ["1", "2", "64"])
def test_however_few_rows_a_pass_has_the_answer_is_the_plain_one(run: Run, max_rows: str) -> None:
    words = ["generate", "What is Helix?", "--pair", "tiny", "--max-tokens", "24"]
    plain = run(*words, "--draft-tokens", "0")
    for rest in (["--calibrate", "off"], ["--draft", "none", "--calibrate", "off"], ["--draft-tokens", "4"]):
        result = run(*words, "--max-rows", max_rows, *rest)
        assert (result.exit_code, result.stdout) == (0, plain.stdout), rest
