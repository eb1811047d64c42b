"""Reasoning, the chat template's variables, and the model's own settings, from the command line."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.cli.chat import respond
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.session.repl import UNANSWERED, Repl
from helix_mlx.errors import SettingsError
from helix_mlx.request import SamplingParams
from tests.cli.conftest import Run
from tests.cli.fakes import FakeEngine

TINY = Path(__file__).parent.parent.parent / "helix_mlx" / "models" / "tiny" / "target"


@pytest.fixture
def repl(terminal: Terminal) -> Repl:
    fake = FakeEngine()
    return Repl(fake, fake.talk, terminal, SamplingParams())


def shown(repl: Repl) -> str:
    assert isinstance(repl.terminal.out, io.StringIO)
    return repl.terminal.out.getvalue()


def test_a_pipe_gets_the_answer_alone(engine: FakeEngine, run: Run) -> None:
    assert run("generate", "think").stdout == "Yes.\n"
    assert run("generate", "think", "--raw").stdout == "<think>hm</think>\nYes.\n"
    assert run("chat", text="think\n").stdout == "Yes.\n"
    answer = json.loads(run("generate", "think", "--json").stdout)
    assert (answer["text"], answer["reasoning"], answer["content"]) == ("<think>hm</think>\nYes.", "hm", "Yes.")
    answer = json.loads(run("chat", "--json", text="think\n").stdout)
    assert (answer["text"], answer["reasoning"], answer["content"]) == ("<think>hm</think>\nYes.", "hm", "Yes.")


def test_reasoning_without_an_answer_is_told_where_nothing_shows_it(engine: FakeEngine, run: Run) -> None:
    for result in (run("generate", "think only"), run("chat", text="think only\n")):
        assert (result.exit_code, result.stdout) == (0, "\n")
        assert UNANSWERED in result.stderr


def test_a_terminal_shows_reasoning_dim(repl: Repl) -> None:
    respond(repl, "think")
    assert shown(repl).startswith("\x1b[2m<think>\x1b[0;2;36mhm\x1b[0;2m</think>\n\x1b[0mYes.\n")


def test_the_next_turn_has_the_whole_message(repl: Repl, tmp_path: Path) -> None:
    respond(repl, "think")
    respond(repl, "so")
    fake: Any = repl.engine
    answer = {"role": "assistant", "content": "\nYes.", "reasoning_content": "hm"}
    assert fake.talk.asked[1][0][1] == answer
    respond(repl, f"/save {tmp_path / 'talk.md'}")
    folded = "## fake\n\n<details><summary>Reasoning</summary>\n\nhm\n\n</details>\n\nYes.\n\n## You"
    assert folded in (tmp_path / "talk.md").read_text()


@pytest.mark.parametrize(
    ("words", "set_"),
    [
        ("", {"thinking": None}),
        ("--thinking on", {"thinking": True}),
        ("--thinking off", {"thinking": False}),
        ("--thinking auto", {"thinking": None}),
        ("--template-arg effort=high", {"thinking": None, "effort": "high"}),
        ("--template-arg a=true --template-arg b=[1]", {"thinking": None, "a": True, "b": [1]}),
        ("--template-arg a= --template-arg b=x=1", {"thinking": None, "a": "", "b": "x=1"}),
        ("--template-arg a=NaN --template-arg b=null", {"thinking": None, "a": "NaN", "b": None}),
        ('--template-arg a="1"', {"thinking": None, "a": "1"}),
        (f"--template-arg a={'[' * 5000}", {"thinking": None, "a": "[" * 5000}),
    ],
)
def test_variables_reach_the_engine(engine: FakeEngine, run: Run, words: str, set_: dict[str, Any]) -> None:
    run("generate", "hello", *words.split())
    run("generate", "hello", "--json", *words.split())
    run("chat", *words.split(), text="hello\n")
    assert engine.talk.template_settings == [set_] * 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--thinking maybe", "thinking is maybe, but must be on, off or auto"),
        ("--template-arg effort", "template-arg is 'effort', but must be NAME=VALUE"),
        ("--template-arg =high", "template-arg is '=high', but must be NAME=VALUE"),
        ("--raw --thinking off", "--raw skips the chat template"),
        ("--raw --template-arg a=1", "--raw skips the chat template"),
        ("--stop-token=", "stop-token is ('',), but must be one token"),
    ],
)
def test_a_mistake_is_one_line(engine: FakeEngine, run: Run, words: str, told: str) -> None:
    result = run("generate", "hello", *words.split())
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
    assert engine.talk.asked == []


def test_end_tokens_are_ids_or_texts(engine: FakeEngine, run: Run) -> None:
    run("generate", "hello", "--stop-token", "7", "--stop-token", "<|im_end|>", "--stop-token", "٣")
    params = engine.talk.asked[0][1]
    assert params is not None
    assert params.stop_tokens == (7, "<|im_end|>", "٣")


def test_what_the_template_does_not_read_is_said_once(engine: FakeEngine, run: Run, repl: Repl) -> None:
    engine.unknown = ["thinking"]
    told = "The model's chat template does not use thinking; it has no effect.\n"
    for result in (run("generate", "hello", "--thinking", "on"), run("chat", "--thinking", "on", text="a\nb\n")):
        assert result.stderr.count(told) == 1


def test_think_changes_the_next_answer(repl: Repl) -> None:
    fake: Any = repl.engine
    respond(repl, "/think")
    assert "Thinking: auto (the chat template decides)." in shown(repl)
    for word, value in (("on", True), ("off", False), ("auto", None)):
        respond(repl, f"/think {word}")
        respond(repl, "hello")
        assert fake.talk.template_settings[-1] == {"thinking": value}
    respond(repl, "/set thinking on")
    respond(repl, "/set template-arg effort=high")
    respond(repl, "/set template-arg budget=3")
    respond(repl, "hello")
    assert fake.talk.template_settings[-1] == {"thinking": True, "effort": "high", "budget": 3}
    respond(repl, "/set template-arg none")
    with pytest.raises(SettingsError, match="thinking is maybe"):
        respond(repl, "/think maybe")
    respond(repl, "hello")
    assert fake.talk.template_settings[-1] == {"thinking": True}


def test_set_says_where_each_value_is_from(engine: FakeEngine, run: Run) -> None:
    engine.defaults = {"temperature": 0.6, "top_k": 20}
    words = ["chat", "--top-k", "40", "--page-size", "32", "--template-arg", "effort=high", "--draft-tokens", "2"]
    result = run(*words, text="/set min-p 0.1\n/set stop-token 5\n/think off\nhello\n/set\n")
    for line in (
        "temperature 0.6 (generation_config.json)",
        "top-k 40 (command line)",
        "min-p 0.1 (/set)",
        "top-p 1.0 (default)",
        "stop-token 5 (/set)",
        "thinking off (/set)",
        'template-arg effort="high" (command line)',
        "page-size 32 (command line)",
        "draft-tokens 2 (command line)",
        "max-rows 16 (default)",
    ):
        assert f"{line}\n" in result.stdout
    params = engine.talk.asked[0][1]
    assert params is not None
    assert (params.temperature, params.top_k, params.min_p, params.stop_tokens) == (0.6, 40, 0.1, (5,))


@pytest.fixture(scope="module")
def reasoning_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in target with think marks where its template had others, so that its whole answer is reasoning."""
    folder = tmp_path_factory.mktemp("models") / "target"
    shutil.copytree(TINY, folder)
    marked = (folder / "tokenizer.json").read_text().replace("<|system|>", "<think>").replace("<|end|>", "</think>")
    (folder / "tokenizer.json").write_text(marked)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"eos_token": "<|endoftext|>", "additional_special_tokens": ["<think>", "<|user|>", "<|assistant|>"]}
    config["chat_template"] = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</think>{% endfor %}<|assistant|>"
        "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    generation = {"do_sample": True, "temperature": 0.01, "top_k": 3, "repetition_penalty": 1.1, "eos_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_a_real_model_that_reasons(reasoning_model: Path, run: Run) -> None:
    words = [
        "generate",
        "What is a page?",
        "--target",
        str(reasoning_model),
        "--calibrate",
        "off",
        "--max-tokens",
        "40",
    ]
    result = run(*words, "--json")
    answer = json.loads(result.stdout)
    assert answer["reasoning"].startswith("A page is page_size consecutive token positions")
    assert answer["content"] == ""
    assert answer["text"] == f"{answer['reasoning']}</think>"
    assert answer["finish_reason"] == "stop"
    assert (answer["settings"]["temperature"], answer["settings"]["top_k"]) == (0.01, 3)
    assert (
        result.stderr.count("generation_config.json asks for repetition_penalty 1.1, which Helix does not support") == 1
    )
    piped = run(*words)
    assert piped.stdout == "\n"
    assert UNANSWERED in piped.stderr
    silent = run(*words, "--thinking", "off", "--no-generation-config", "--stop-token", "</think>", "--json")
    answer = json.loads(silent.stdout)
    assert answer["reasoning"] is None
    assert "A page is page_size" in answer["content"]
    assert "</think>" not in answer["text"]
    assert answer["settings"]["temperature"] == 0
    assert "repetition_penalty" not in silent.stderr


@pytest.mark.parametrize("content", ["{", "[]", '{"temperature": "hot"}', '{"eos_token_id": "x"}'])
def test_a_broken_generation_config_is_one_line(reasoning_model: Path, tmp_path: Path, run: Run, content: str) -> None:
    shutil.copytree(reasoning_model, tmp_path / "target")
    (tmp_path / "target" / "generation_config.json").write_text(content)
    result = run("generate", "hello", "--target", str(tmp_path / "target"))
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "generation_config.json" in result.stderr
