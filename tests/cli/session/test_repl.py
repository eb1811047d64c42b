"""A chat without a terminal: what is sent, what is shown, and what a stop or an error leaves behind."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from helix_mlx.cli.chat import respond
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.session.repl import Repl
from helix_mlx.errors import PromptError, SettingsError
from helix_mlx.request import Chunk, SamplingParams, Stats
from tests.cli.fakes import FakeEngine


def shown(terminal: Terminal) -> str:
    assert isinstance(terminal.out, io.StringIO)
    return terminal.out.getvalue()


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def repl(fake: FakeEngine, terminal: Terminal) -> Repl:
    return Repl(fake, fake.talk, terminal, SamplingParams())


def test_the_whole_conversation_is_sent_each_time(repl: Repl, fake: FakeEngine) -> None:
    respond(repl, "one")
    respond(repl, " two ")
    contents = [message["content"] for message in fake.talk.asked[1][0]]
    assert contents == ["one", "You said one", "two"]
    assert [message["role"] for message in repl.messages] == ["user", "assistant"] * 2


def test_an_empty_line_sends_nothing(repl: Repl, fake: FakeEngine) -> None:
    assert respond(repl, "   ")
    assert fake.talk.asked == []


def test_drafted_tokens_have_another_shade(repl: Repl, terminal: Terminal) -> None:
    respond(repl, "so")
    assert shown(terminal).startswith("You\x1b[36m said\x1b[0m so\n")


def test_a_shade_ends_with_the_answer(repl: Repl, terminal: Terminal) -> None:
    respond(repl, "this too")
    assert shown(terminal).startswith("You\x1b[36m said\x1b[0m this\x1b[36m too\x1b[0m\n")


def test_the_status_line_tells_what_the_drafts_were_worth(repl: Repl, terminal: Terminal) -> None:
    respond(repl, "so")
    assert "3 tokens · 50 tokens/s · first token 0.25 s · 33% from drafts · 2.0 tokens/pass" in shown(terminal)


def test_without_a_terminal_there_is_the_answer_alone(fake: FakeEngine) -> None:
    plain = Terminal(io.StringIO(), io.StringIO(), live=False, colour=False, live_errors=False)
    respond(Repl(fake, fake.talk, plain, SamplingParams()), "so")
    assert shown(plain) == "You said so\n"


def test_as_json_an_answer_is_one_line(fake: FakeEngine, terminal: Terminal) -> None:
    respond(Repl(fake, fake.talk, terminal, SamplingParams(), as_json=True), "so")
    (line,) = shown(terminal).splitlines()
    found = json.loads(line)
    assert found["text"] == "You said so"
    assert found["stats"]["emitted"] > 0


def test_a_system_message_comes_first(fake: FakeEngine, terminal: Terminal) -> None:
    repl = Repl(fake, fake.talk, terminal, SamplingParams(), "Be brief.")
    respond(repl, "one")
    assert fake.talk.asked[0][0][0] == {"role": "system", "content": "Be brief."}


def test_ctrl_c_keeps_what_was_said(repl: Repl, fake: FakeEngine, terminal: Terminal) -> None:
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    respond(repl, "for ever")
    assert repl.messages[-1]["role"] == "assistant"
    assert repl.messages[-1]["content"].startswith(" 1 2")
    assert "stopped" in shown(terminal)
    respond(repl, "again")
    assert len(fake.talk.asked[1][0]) == 3


def test_an_answer_stopped_before_its_first_word_takes_the_message_back(
    repl: Repl, fake: FakeEngine, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*args: Any, **extra: Any) -> Iterator[Chunk]:
        yield Chunk("", finish_reason="cancelled", stats=Stats())

    monkeypatch.setattr(fake.talk, "stream", nothing)
    respond(repl, "hello")
    assert repl.messages == []
    assert "your message was removed" in shown(terminal)


def test_an_answer_of_nothing_takes_the_message_back(
    repl: Repl, fake: FakeEngine, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake.talk, "stream", lambda *args, **extra: iter([Chunk("", finish_reason="stop")]))
    respond(repl, "hello")
    assert repl.messages == []
    assert "no answer" in shown(terminal)


def test_an_error_leaves_the_conversation_as_it_was(repl: Repl) -> None:
    respond(repl, "one")
    before = list(repl.messages)
    with pytest.raises(PromptError) as error:
        respond(repl, "too long")
    assert repl.messages == before
    assert repl.explain(error.value).endswith("(/reset clears the conversation)")


def test_the_handler_of_ctrl_c_is_put_back(repl: Repl) -> None:
    before = signal.getsignal(signal.SIGINT)
    respond(repl, "one")
    with pytest.raises(PromptError):
        respond(repl, "too long")
    assert signal.getsignal(signal.SIGINT) is before


def test_retry_answers_the_last_message_again(repl: Repl, fake: FakeEngine) -> None:
    respond(repl, "one")
    respond(repl, "two")
    before = list(repl.messages)
    respond(repl, "/retry")
    assert fake.talk.asked[2][0] == fake.talk.asked[1][0]
    assert repl.messages == before


@pytest.mark.parametrize(("temperature", "seeds"), [(0.7, [5, 6, 7]), (0.0, [5, 5, 5])])
def test_retry_takes_the_next_seed_where_one_is_drawn_from(
    repl: Repl, fake: FakeEngine, temperature: float, seeds: list[int]
) -> None:
    repl.params = SamplingParams(temperature=temperature, seed=5)
    for line in ("one", "/retry", "/retry"):
        respond(repl, line)
    assert [params.seed for _, params, _ in fake.talk.asked if params] == seeds


def test_retry_asks_a_message_that_was_taken_back_once_more(repl: Repl, fake: FakeEngine) -> None:
    respond(repl, "one")
    for line in ("too long", "/retry", "/retry"):
        with pytest.raises(PromptError):
            respond(repl, line)
    assert [message["content"] for message in fake.talk.asked[-1][0]] == ["one", "You said one", "too long"]
    assert len(repl.messages) == 2


def test_there_is_nothing_to_retry_before_the_first_message(repl: Repl) -> None:
    with pytest.raises(SettingsError, match="no message to retry"):
        respond(repl, "/retry")
    respond(repl, "one")
    respond(repl, "/reset")
    with pytest.raises(SettingsError, match="no message to retry"):
        respond(repl, "/retry")
