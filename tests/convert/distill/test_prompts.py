"""Prompts from a file, some held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helix_mlx.convert.distill.prompts import Prompt, read_prompts
from helix_mlx.errors import PromptError
from tests.support import byte_tokenizer

LINES = [f"Question {number}?" for number in range(20)]


def written(folder: Path, lines: list[str], name: str = "prompts.txt") -> Path:
    file = folder / name
    file.write_text("\n".join(lines))
    return file


def test_a_line_is_a_question_and_counts_once(tmp_path: Path) -> None:
    prompts = read_prompts(written(tmp_path, [*LINES, "", *LINES]), 0.15)
    assert len(prompts.taught) + len(prompts.held_out) == 20
    assert 2 <= len(prompts.held_out) <= 6
    assert not set(map(str, prompts.taught)) & set(map(str, prompts.held_out))
    assert prompts.taught[0].messages[0]["role"] == "user"


def test_what_was_held_out_is_not_taught_when_the_file_grows(tmp_path: Path) -> None:
    before = read_prompts(written(tmp_path, LINES), 0.2)
    after = read_prompts(written(tmp_path, [*LINES, *(f"More {number}" for number in range(20))]), 0.2)
    assert set(map(str, after.taught)) & set(map(str, before.held_out)) == set()


def test_objects_are_prompts_texts_and_conversations(tmp_path: Path) -> None:
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "what another model said"},
    ]
    rows = [{"prompt": "Why?"}, {"text": "def f("}, {"messages": talk}, *({"prompt": text} for text in LINES)]
    prompts = read_prompts(written(tmp_path, [json.dumps(row) for row in rows], "p.jsonl"), 0.1)
    every = [*prompts.taught, *prompts.held_out]
    assert Prompt(text="def f(") in every
    assert Prompt(tuple(talk[:2])) in every
    tokenizer = byte_tokenizer()
    assert Prompt(text="def f(").tokens(tokenizer) == tokenizer.encode("def f(")
    question: dict[str, str] = {"role": "user", "content": "Why?"}
    assert Prompt((question,)).tokens(tokenizer) == tokenizer.encode_chat([question])


@pytest.mark.parametrize(
    ("name", "lines", "told"),
    [
        ("p.txt", ["one", "two"], "2 different prompts"),
        ("p.jsonl", ["{not json"], "line 1 is not JSON"),
        ("p.jsonl", ['{"question": "x"}'], 'an object with "prompt", "text" or "messages"'),
        ("p.jsonl", ['{"messages": [{"role": "system", "content": "x"}]}'], "line 1 is not"),
        ("p.jsonl", ['{"prompt": ""}'], "line 1 is not"),
    ],
)
def test_a_mistake_names_its_line(tmp_path: Path, name: str, lines: list[str], told: str) -> None:
    with pytest.raises(PromptError, match=told):
        read_prompts(written(tmp_path, lines, name), 0.15)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="cannot read the prompts"):
        read_prompts(tmp_path / "nowhere", 0.15)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PromptError, match="UTF-8"):
        read_prompts(tmp_path / "binary", 0.15)
