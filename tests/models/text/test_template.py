"""Which variables reach a chat template, and in which form it is told what a model reasoned before."""

from __future__ import annotations

from typing import Any

import pytest
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer, TokenizerWrapper

from helix_mlx.errors import SettingsError
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.types import Message
from tests.support import byte_tokenizer

NAMES = {94: "<think>", 95: "</think>"}


def turns(content: str, opening: str = "") -> str:
    """A template of so much for each message, and for the beginning of the answer."""
    return (
        "{% for m in messages %}<{{ m.role }}>" + content + "{% endfor %}"
        "{% if add_generation_prompt %}<assistant>" + opening + "{% endif %}"
    )


KEEPS = turns("{{ m.content }}")
STRIPS = turns("{{ m.content.split('</think>')[-1].lstrip('\\n') }}")
READS = turns(
    "{% if m.reasoning_content is string and loop.last %}(reasoned){{ m.reasoning_content }}{% endif %}{{ m.content }}"
)
OPENS = turns("{{ m.content }}", "<think>\n")
SWITCHED = turns("{{ m.content }}", "{{ 'unset' if enable_thinking is not defined else enable_thinking }}")
DEFAULTED = "{% if thinking is not defined %}{% set thinking = false %}{% endif %}" + turns(
    "{{ m.content }}", "{% if thinking %}<think>{% else %}</think>{% endif %}"
)
PLAIN = "<think>\nhm\n</think>\n\nYes."


def tokenizer(template: str) -> Tokenizer:
    return byte_tokenizer(names=NAMES, template=template)


def rendered(template: str, *answers: Message) -> str:
    messages: list[Message] = []
    for answer in answers:
        messages += [{"role": "user", "content": "q"}, answer]
    return tokenizer(template).render_chat([*messages, {"role": "user", "content": "q"}])


def said(content: str, **more: str) -> Message:
    return {"role": "assistant", "content": content, **more}


def test_the_markers_are_those_that_mlx_lm_finds() -> None:
    marks = tokenizer(KEEPS).template.marks
    assert marks is not None
    assert (marks.start, marks.end) == ("<think>", "</think>")
    assert byte_tokenizer().template.marks is None


@pytest.mark.parametrize("answer", [said(PLAIN), said("\n\nYes.", reasoning_content="\nhm\n")])
@pytest.mark.parametrize(
    ("template", "told"),
    [
        (KEEPS, PLAIN),  # knows nothing of reasoning: the very text that was generated
        (STRIPS, "Yes."),
        (READS, "Yes."),
        (OPENS, PLAIN),
    ],
)
def test_reasoning_goes_back_in_the_form_that_the_template_expects(answer: Message, template: str, told: str) -> None:
    opening = "<think>\n" if template == OPENS else ""
    assert rendered(template, answer) == f"<user>q<assistant>{told}<user>q<assistant>{opening}"


def test_a_template_that_asks_for_reasoning_apart_gets_it() -> None:
    template = tokenizer(READS)
    assert template.render_chat([said(PLAIN)]) == "<assistant>(reasoned)hmYes.<assistant>"
    assert template.render_chat([said("Yes.", reasoning_content="hm")]) == "<assistant>(reasoned)hmYes.<assistant>"


@pytest.mark.parametrize(
    "read", ["m.reasoning_content", "m['reasoning_content']", "m.thinking", "m.reasoning", "m.get('reasoning')"]
)
def test_reasoning_has_the_name_that_the_template_asks_for(read: str) -> None:
    template = tokenizer(turns("{% if " + read + " %}({{ " + read + " }}){% endif %}{{ m.content }}"))
    assert template.render_chat([said(PLAIN)]) == "<assistant>(hm)Yes.<assistant>"


def test_channels_are_told_apart_and_never_sent_back() -> None:
    """A template that refuses channels in a content, as that of gpt-oss does."""
    final = "<|channel|>final<|message|>"
    refuses = "{% if '<|channel|>' in m.content %}{{ raise_exception('channels') }}{% endif %}{{ m.content }}"
    names = {90: "<|start|>", 91: "<|channel|>", 92: "<|message|>", 93: "<|end|>"}
    made = byte_tokenizer(names=names, template=turns(refuses + "{% if m.thinking and loop.last %}{% endif %}"))
    marks = made.template.marks
    assert marks is not None
    answers = [f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant{final}Yes.", f"{final}Yes."]
    assert [marks.parts(answer) for answer in answers] == [("hm", "Yes."), ("", "Yes.")]
    assert made.render_chat([said(answers[0]), said(answers[1])]) == "<assistant>Yes.<assistant>Yes.<assistant>"


def test_a_template_in_python_takes_variables_and_reasoning_apart() -> None:
    def render(messages: list[dict[str, str]], add_generation_prompt: bool = False, **variables: Any) -> str:
        return f"{messages} {variables}"

    inner = tokenizer(SWITCHED).template._inner
    made = Tokenizer(TokenizerWrapper(inner, NaiveStreamingDetokenizer, chat_template=render))
    told = {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}
    assert made.template.unread(False, {"effort": 1}) == []
    chosen = made.template.chosen(False, {"effort": 1})
    assert made.render_chat([said(PLAIN)], chosen) == f"{[told]} {{'effort': 1, 'enable_thinking': False}}"
    assert made.render_chat([said("Yes.")]) == f"{[said('Yes.')]} {{}}"


def test_an_answer_that_the_prompt_began_is_whole_again() -> None:
    assert rendered(OPENS, said("hm\n</think>\n\nYes."), said("No.")) == (
        f"<user>q<assistant>{PLAIN}<user>q<assistant>No.<user>q<assistant><think>\n"
    )


def test_reasoning_that_was_cut_short_is_closed() -> None:
    assert rendered(STRIPS, said("", reasoning_content="\nhalf")) == "<user>q<assistant><user>q<assistant>"
    assert rendered(KEEPS, said("<think>\nhalf")) == "<user>q<assistant><think>\nhalf</think><user>q<assistant>"


@pytest.mark.parametrize("text", ["The tag </think> ends it.", "a <think>b</think>", "plain"])
def test_an_answer_that_speaks_of_marks_is_left_alone(text: str) -> None:
    assert rendered(KEEPS, said(text)) == f"<user>q<assistant>{text}<user>q<assistant>"


@pytest.mark.parametrize(
    ("template", "thinking", "args", "end"),
    [
        (SWITCHED, None, {}, "unset"),
        (SWITCHED, True, {}, "True"),
        (SWITCHED, False, {}, "False"),
        (SWITCHED, None, {"enable_thinking": 3}, "3"),
        (DEFAULTED, None, {}, "</think>"),
        (DEFAULTED, True, {}, "<think>"),
        (
            turns("", "{{ effort }}{{ documents[0].title }}"),
            None,
            {"effort": "high", "documents": [{"title": "t"}]},
            "hight",
        ),
    ],
)
def test_variables_reach_the_template(template: str, thinking: bool | None, args: dict[str, Any], end: str) -> None:
    made = tokenizer(template)
    variables = made.template.chosen(thinking, args)
    text = made.render_chat([{"role": "user", "content": "q"}], variables)
    assert text.partition("<assistant>")[2] == end
    assert made.template.unread(thinking, args) == []


def test_what_the_template_does_not_read_is_told() -> None:
    template = tokenizer(SWITCHED).template
    assert template.unread(True, {"enable_thinkin": True}) == ["template-arg enable_thinkin"]
    assert tokenizer(KEEPS).template.unread(False, {}) == ["thinking"]


def test_a_tag_for_training_is_no_obstacle() -> None:
    tagged = turns("{% generation %}{{ m.content }}{% endgeneration %}{% break %}", "{{ effort }}")
    assert "effort" in tokenizer(tagged).template.variables
    assert tokenizer("{% if %}").template.variables == frozenset()


@pytest.mark.parametrize(
    ("thinking", "args", "told"),
    [
        (None, {"messages": []}, "template-arg messages is set by Helix itself"),
        (None, {"tokenize": True}, "template-arg tokenize is set by Helix itself"),
        (None, {"self": 1}, "template-arg self is set by Helix itself"),
        (True, {"enable_thinking": False}, "thinking is set twice"),
    ],
)
def test_a_variable_that_is_taken(thinking: bool | None, args: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        tokenizer(SWITCHED).template.chosen(thinking, args)


@pytest.mark.parametrize(("token", "index"), [(7, 7), ("a", 65), ("</think>", 95)])
def test_a_token_by_its_text_or_its_id(token: int | str, index: int) -> None:
    assert tokenizer(KEEPS).stop_ids([token]) == {index}


def test_a_text_of_several_tokens_is_no_token() -> None:
    with pytest.raises(
        SettingsError, match=r"stop-token 'ab' is not a single token of this model \(it comes to 2: 65, 66\)"
    ):
        tokenizer(KEEPS).stop_ids(["ab"])
