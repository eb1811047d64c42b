"""An engine whose model reasons: chunks, completions, turns, end tokens, and the settings of every way to ask."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from helix_mlx.config import EngineConfig
from helix_mlx.engine.engine import Engine
from helix_mlx.errors import SettingsError
from helix_mlx.models.generation import GenerationConfig
from helix_mlx.models.pair import Pair
from helix_mlx.request import Chunk, Completion, Request, SamplingParams
from tests.support import byte_tokenizer, plain, random_pair

CONFIG = EngineConfig(max_context=512, draft_tokens=3, page_size=8)
ASKED = [{"role": "user", "content": "abc"}]
KEEPS, STRIPS = "{{ m.content }}", "{{ m.content.split('</think>')[-1] }}"


def template(content: str, opening: str) -> str:
    return (
        "{% for m in messages %}{{ 'A' if m.role == 'assistant' else 'U' }}" + content + "|{% endfor %}"
        "A{% if thinking is not defined %}" + opening + "{% endif %}"
    )


def reasoning_pair(content: str, opens: bool) -> Pair:
    """A random pair whose first answer reasons for four tokens, then answers, and ends.

    Whichever tokens the model happens to say at these places are named the marks and the end. The prompt may open
    the reasoning with a mark that the model then does not say.
    """
    pair = random_pair()
    written = template(content, "<think>" if opens else "")
    opened = byte_tokenizer(names={95: "<think>"}, template=written)
    asked = opened.encode_chat(ASKED)
    answer = plain(pair.target.model, asked, 60)
    fresh = [i for i, token in enumerate(answer) if token not in (*answer[:i], *asked, 0)]
    start = 95 if opens else answer[0]
    end = answer[next(i for i in fresh if i >= 4)]
    last = answer[next(i for i in fresh if i >= answer.index(end) + 3)]
    names = {start: "<think>", end: "</think>", last: "<end>"}
    return replace(pair, tokenizer=byte_tokenizer((last,), names=names, template=written))


@pytest.fixture(scope="module", params=[False, True], ids=["by the model", "by the prompt"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return reasoning_pair(KEEPS, request.param)


def test_reasoning_is_told_from_the_answer(pair: Pair) -> None:
    with Engine(pair, CONFIG) as engine:
        done = engine.chat(ASKED)
        assert done.finish_reason == "stop"
        assert done.text == pair.tokenizer.decode(done.tokens[:-1])
        assert done.reasoning
        assert done.content
        reasoning, _, content = done.text.removeprefix("<think>").partition("</think>")
        assert (done.reasoning, done.content) == (reasoning.strip(), content.lstrip())
        chunks = list(engine.stream_chat(ASKED))
        assert "".join(chunk.text for chunk in chunks) == done.text
        assert "".join(chunk.text for chunk in chunks if not chunk.reasoning) == done.content
        assert [chunk.token for chunk in chunks if chunk.token is not None] == done.tokens
        assert chunks[-1].message == done.message
        assert [each.content for each in engine.submit(ASKED, n=2).results()] == [done.content] * 2


@pytest.mark.parametrize("seed", range(2))
def test_a_turn_that_keeps_its_reasoning_reads_only_what_is_new(pair: Pair, seed: int) -> None:
    with Engine(pair, CONFIG) as engine, Engine(pair, replace(CONFIG, prefix_cache=False)) as forgetful:
        talk = engine.conversation()
        *_, last = talk.stream(ASKED)
        assert last.message is not None
        asked = [*ASKED, last.message, {"role": "user", "content": "".join(random.Random(seed).choices("abc", k=9))}]
        chunks = list(talk.stream(asked, max_tokens=9))
        stats = chunks[-1].stats
        assert stats is not None
        assert stats.prefill_tokens <= len("|U123456789|A") + 1 + CONFIG.page_size
        fresh = forgetful.chat(asked, max_tokens=9)
        assert "".join(chunk.text for chunk in chunks) == fresh.text


@pytest.mark.parametrize("opens", [False, True])
def test_a_turn_that_drops_its_reasoning_is_read_as_the_template_has_it(opens: bool) -> None:
    pair = reasoning_pair(STRIPS, opens)
    with Engine(pair, CONFIG) as engine:
        done = engine.chat(ASKED)
        for answer in (done.message, {"role": "assistant", "content": done.text}):
            asked = [*ASKED, answer, {"role": "user", "content": "ab"}]
            talk = engine.conversation()
            list(talk.stream(ASKED))
            *_, last = talk.stream(asked, max_tokens=5)
            told = f"Uabc|A{done.text.partition('</think>')[2]}|Uab|A" + ("<think>" if opens else "")
            expected = engine.generate(pair.tokenizer.encode_rendered(told), max_tokens=5)
            assert last.message is not None
            assert last.message == expected.message


def test_an_answer_cut_within_its_reasoning(pair: Pair) -> None:
    with Engine(pair, CONFIG) as engine:
        done = engine.chat(ASKED, max_tokens=3)
        assert done.content == ""
        assert done.reasoning
        assert done.message["content"] == ""


def ways(engine: Engine, **settings: Any) -> list[Completion | list[Chunk]]:
    """The same question in every way that a question can be asked."""
    tokens = engine.pair.tokenizer.encode_chat(ASKED)
    with engine.conversation() as talk:
        turn = list(talk.stream(ASKED, **settings))
    return [
        turn,
        engine.generate(tokens, **settings),
        engine.generate([tokens], **settings)[0],
        list(engine.stream(tokens, **settings)),
        engine.chat(ASKED, **settings),
        list(engine.stream_chat(ASKED, **settings)),
        engine.submit(ASKED, **settings).result(),
    ]


def tokens_of(answer: Completion | list[Chunk]) -> list[int]:
    if isinstance(answer, Completion):
        return answer.tokens
    return [chunk.token for chunk in answer if chunk.token is not None]


def stats_of(answer: Completion | list[Chunk]) -> Any:
    return answer.stats if isinstance(answer, Completion) else answer[-1].stats


def test_every_way_to_ask_takes_the_same_settings(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine(pair, CONFIG) as engine:
        whole = engine.chat(ASKED)
        third, text = whole.tokens[2], pair.tokenizer.decode(whole.tokens[2:4])
        for answer in ways(engine, stop_tokens=third):
            assert tokens_of(answer) == whole.tokens[: whole.tokens.index(third) + 1]
        for answer in ways(engine, stop=text):
            said = answer.text if isinstance(answer, Completion) else "".join(chunk.text for chunk in answer)
            assert said == whole.text.partition(text)[0]
        for answer in ways(engine, drafter="ngram", draft_tokens=2, max_tokens=12):
            assert stats_of(answer).draft_passes == 0
            assert tokens_of(answer) == whole.tokens[:12]
        priorities: list[int] = []
        submit = engine._core.submit

        def noted(groups: Any) -> Any:
            priorities.extend(group[0].priority for group in groups)
            return submit(groups)

        monkeypatch.setattr(engine._core, "submit", noted)
        assert len(ways(engine, priority=5, max_tokens=2)) == len(priorities)
        assert set(priorities) == {5}
        with pytest.raises(SettingsError, match=r"there is no setting n; choose from max_tokens, .*drafter"):
            engine.generate("a", n=2)  # type: ignore[call-overload]


def test_thinking_and_variables_are_for_messages() -> None:
    pair = reasoning_pair(KEEPS, opens=True)  # its template opens the reasoning unless `thinking` is set
    with Engine(pair, CONFIG) as engine, engine.conversation() as talk:
        silent = pair.tokenizer.encode_rendered("Uabc|A")
        expected = engine.generate(silent, max_tokens=4).tokens
        given: tuple[dict[str, Any], ...] = ({"thinking": False}, {"template_args": {"thinking": 1}})
        for settings in given:
            asked = Request(ASKED, SamplingParams(max_tokens=4), **settings)
            assert engine.submit(asked).result().tokens == expected
            assert engine.chat(ASKED, max_tokens=4, **settings).tokens == expected
            for ask in (engine.stream_chat, talk.stream):
                assert tokens_of(list(ask(ASKED, max_tokens=4, **settings))) == expected
            with pytest.raises(SettingsError, match="need the chat template"):
                engine.generate("abc", **settings)
        assert engine.chat(ASKED, max_tokens=4).tokens != expected


def test_the_models_own_settings_fill_what_a_call_leaves_out(pair: Pair) -> None:
    own = replace(pair, generation=GenerationConfig({"temperature": 0.9, "top_k": 5}))
    with Engine(own, CONFIG) as engine:
        assert engine.defaults == {"temperature": 0.9, "top_k": 5}
        for done in (
            engine.generate("a", max_tokens=2),
            engine.chat(ASKED, max_tokens=2),
            engine.submit(Request("a", n=2)).results()[1],
        ):
            assert (done.settings["temperature"], done.settings["top_k"]) == (0.9, 5)
        assert engine.generate("a", max_tokens=2, temperature=0).settings["temperature"] == 0
        assert engine.generate("a", SamplingParams(max_tokens=2)).settings["temperature"] == 0
        assert engine.submit(Request("a", SamplingParams(max_tokens=2))).result().settings["top_k"] == 0
    with Engine(own, replace(CONFIG, generation_config=False)) as engine:
        assert engine.generate("a", max_tokens=2).settings["temperature"] == 0


def test_an_end_token_ends_the_answer_and_is_not_shown(pair: Pair) -> None:
    with Engine(pair, CONFIG) as engine:
        whole = engine.chat(ASKED)
        for end in (whole.tokens[2], pair.tokenizer.decode([whole.tokens[2]])):
            done = engine.chat(ASKED, stop_tokens=[end])
            assert done.finish_reason == "stop"
            assert done.text == pair.tokenizer.decode(done.tokens[:-1])
            assert done.settings["stop_tokens"] == (end,)
        with pytest.raises(SettingsError, match="stop-token 96 is not a token id: they go from 0 to 95"):
            engine.chat(ASKED, stop_tokens=96)
        for wrong in ("", 0.5, [None], True):
            with pytest.raises(SettingsError, match=r"stop-token is .*but must be one token"):
                engine.chat(ASKED, stop_tokens=wrong)  # type: ignore[arg-type]


def test_what_people_see_of_an_engine_is_one_line(pair: Pair) -> None:
    with Engine(pair, CONFIG) as engine:
        handle, talk = engine.submit("abc", max_tokens=2), engine.conversation()
        assert repr(engine) == "<Engine random: target llama-0, draft llama-7, context 512>"
        assert repr(pair) == "<Pair random: target llama-0, draft llama-7>"
        handle.wait()
        assert repr(handle) == "<Handle: 1 answer, done>"
        assert repr(talk) == "<Conversation: not begun>"
