"""Reasoning and answer are told apart alike, however the text comes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_mlx.request import Completion, Stats
from helix_mlx.thinking import ReasoningSplitter, ThinkMarks

MARKS = ThinkMarks("<think>", "</think>")
OPENED = MARKS.behind("<assistant><think>\n")
CHANNELS = ThinkMarks("<|analysis|>", "<|final|>", plain="<|final|>")


@pytest.mark.parametrize(
    ("marks", "text", "reasoning", "content"),
    [
        (MARKS, "<think>\nhm\n</think>\n\nYes.", "hm", "Yes."),
        (MARKS, "\n<think></think>Yes.", "", "Yes."),
        (MARKS, "<think>\nhm, and", "hm, and", ""),
        (MARKS, " Yes.", None, " Yes."),
        (MARKS, "A <think>tag</think> is a mark.", None, "A <think>tag</think> is a mark."),
        (MARKS, "<thin", None, "<thin"),
        (MARKS, "<think>a</think>b</think>c", "a", "b</think>c"),
        (OPENED, "hm\n</think>\n\nYes.", "hm", "Yes."),
        (OPENED, "hm", "hm", ""),
        (CHANNELS, "<|analysis|>hm<|final|>Yes.", "hm", "Yes."),
        (CHANNELS, "<|final|>Yes.", "", "Yes."),
        (CHANNELS, "<|fin", None, "<|fin"),
        (None, "<think>hm</think>Yes.", None, "<think>hm</think>Yes."),
    ],
)
def test_an_answer_has_its_parts(marks: ThinkMarks | None, text: str, reasoning: str | None, content: str) -> None:
    done = Completion(text, [], "stop", 1, Stats(), {}, marks)
    assert (done.reasoning, done.content) == (reasoning, content)
    found = done.to_json()
    assert (found["text"], found["reasoning"], found["content"]) == (text, reasoning, content)
    assert "marks" not in found


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<assistant>", ""),
        ("<assistant><think>\n", "<think>\n"),
        ("<assistant><think>", "<think>"),
        ("<think>\n\n</think>\n\n", ""),
        ("what is <think> for?<assistant>", ""),
    ],
)
def test_a_prompt_may_open_the_reasoning(prompt: str, opened: str) -> None:
    assert MARKS.behind(prompt).opened == opened


words = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "/", "think>", "|analysis|>", "|final|>", " ", "\n", "a"]), max_size=12
)


@given(pieces=words, cuts=st.sets(st.integers(1, 60)), marks=st.sampled_from([MARKS, OPENED, CHANNELS, None]))
def test_pieces_say_what_the_whole_says(pieces: list[str], cuts: set[int], marks: ThinkMarks | None) -> None:
    text = "".join(pieces)
    done = Completion(text, [], "stop", 1, Stats(), {}, marks)
    splitter = ReasoningSplitter(marks)
    places = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    found = [piece for start, end in pairwise(places) for piece in splitter.push(text[start:end])]
    found += splitter.finish()
    assert "".join(piece for piece, _ in found) == text
    assert "".join(piece for piece, reasons in found if not reasons) == done.content


@pytest.mark.parametrize("marks", [MARKS, CHANNELS])
@pytest.mark.parametrize("text", ["<think>hm</think>\nYes.", "<|analysis|>hm<|final|>\nYes.", "<|final|>Yes."])
def test_the_parts_make_the_whole_again(marks: ThinkMarks, text: str) -> None:
    reasoning, answer = marks.parts(text)
    assert (answer if reasoning is None else marks.whole(reasoning, answer)) == text
