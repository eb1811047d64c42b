"""The program around the commands: help that loads nothing, and one line for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import helix_mlx
from tests.cli.conftest import Run
from tests.cli.fakes import FakeEngine

HEAVY = ("mlx", "mlx_lm", "transformers", "numpy", "huggingface_hub")
ASK_HELP = """
import sys
from helix_mlx.cli import main
try:
    main({words!r})
except SystemExit as end:
    assert end.code == 0, end.code
print("loaded:", *[name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["chat", "--help"], ["generate", "-h"], ["pairs", "-h"], ["doctor", "-h"]]
)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = ASK_HELP.format(words=words, heavy=HEAVY)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1].strip() == "loaded:"


def test_help_lists_every_command(run: Run) -> None:
    result = run("--help")
    assert result.exit_code == 0
    for command in ("chat", "generate", "pairs", "doctor"):
        assert command in result.output


def test_without_a_command_there_is_help(run: Run) -> None:
    result = run()
    assert result.exit_code == 0
    assert result.output == run("--help").output


def test_version(run: Run) -> None:
    assert helix_mlx.__version__ in run("--version").output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "hi", "--temperature", "-1"], "temperature is -1.0, but must be 0 or more"),
        (["generate", "hi", "--temperature", "nan"], "temperature is nan, but must be 0 or more"),
        (["generate", "hi", "--draft-tokens", "9"], "draft-tokens is 9, but must be between 0 (off) and 7"),
        (["chat", "--draft-tokens", "many"], "draft-tokens is many, but must be between 0 (off) and 7, or auto"),
        (["generate", "hi", "--top-p", "0"], "top-p is 0.0, but must be above 0"),
        (["generate", "hi", "--verification", "best"], "one of greedy, token, block, coupled"),
        (["chat", "--drafter", "eagle"], "one of auto, model, mtp, ngram, none"),
        (["chat", "--page-size", "0"], "page-size is 0"),
        (["chat", "--kv-memory", "plenty"], "kv-memory is 'plenty'"),
        (["chat", "--lookahead", "2"], "lookahead is 2"),
        (["generate", ""], "the prompt is empty"),
        (["generate", "  \n"], "the prompt is empty"),
        (["generate"], "the prompt is empty"),
        (["generate", "-"], "the prompt is empty"),
        (["generate", "\udcff"], "not valid UTF-8"),
        (["generate", "hi", "--raw", "--system", "x"], "--raw skips the chat template"),
        (["generate", "hi", "--top-k", "few"], "'few' is not a valid integer"),
        (["generate", "hi", "--tempo", "1"], "No such option"),
        (["generates"], "No such command 'generates' (did you mean generate?); see helix-mlx --help"),
        (["wxyz"], "No such command 'wxyz'; see helix-mlx --help"),
        (["pairs", "verfy"], "No such command 'verfy' (did you mean verify?); see helix-mlx pairs --help"),
        (["chat", "--kv-memroy", "2GB"], "--kv-memory"),
        (["pairs", "--fetch", "qwen3-8"], "there is no pair named qwen3-8 (did you mean qwen3-8b?); the pairs are"),
        (["pairs", "verify", "nothing"], "there is no converted pair nothing; `helix-mlx pairs` lists"),
        (["generate", "hi", "--max-context", "1" + 400 * "0"], "max-context is 1000 bits long or longer"),
        (["generate", "hi", "--temperature", "1e999"], "temperature is inf, but must be 0 or more"),
        (["generate", "hi", "--kv-memory", "nan"], "kv-memory is 'nan', but must be a number of bytes"),
        (["generate", "hi", "--kv-memory", "0"], "kv-memory is 0, but must be a number of bytes"),
        (["generate", "hi", "--cpu-threads", "0x10"], "'0x10' is not a valid integer"),
        (["pairs", "--fetch", "nothing"], "there is no pair named nothing; the pairs are tiny"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(engine: FakeEngine, run: Run, words: list[str], told: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--pair", "nothing"], "there is no pair named nothing; the pairs are tiny"),
        (["--pair", "tiny", "--target", "x"], "cannot be used together"),
        (["--target", "./no/such/folder"], "no/such/folder"),
    ],
)
def test_a_pair_that_is_not_there_is_one_line(run: Run, words: list[str], told: str) -> None:
    result = run("generate", "hi", *words)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "from helix_mlx.cli import main; main(['pairs', '--json'])"
    pairs = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert pairs.stdout is not None
    assert pairs.stderr is not None
    pairs.stdout.close()
    assert pairs.wait() == 1
    assert pairs.stderr.read() == b""


def test_public_names_come_when_they_are_asked_for() -> None:
    code = "import sys, helix_mlx; print('mlx' in sys.modules); helix_mlx.load; print('mlx' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", helix_mlx.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(helix_mlx, name) is not None
    assert name in dir(helix_mlx)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = helix_mlx.nothing


@pytest.mark.parametrize(
    ("line", "offered"), [("helix-mlx ch", "chat"), ("helix-mlx chat ti", "tiny"), ("helix-mlx pairs ver", "verify")]
)
def test_a_shell_completes_commands_and_pairs_and_nothing_heavy_is_loaded(line: str, offered: str) -> None:
    words = {"_HELIX_MLX_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    code = ASK_HELP.format(words=[], heavy=HEAVY)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **words}
    )
    assert ended.stdout.split() == [f"plain,{offered}", "loaded:"]
