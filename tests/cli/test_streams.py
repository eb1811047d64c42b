"""Standard streams that are closed, broken or full: no traceback, and nothing is written where it does not belong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CHAT, HELP, PAIRS = "-m tests.cli.fake_chat", "-m helix_mlx --help", "-m helix_mlx pairs --json"
MISTAKE = "-m helix_mlx generate x --temperature -1"
ANSWER = "-m helix_mlx generate --raw 'import os' --pair tiny --max-tokens 40 --calibrate off"


def ended(program: str, streams: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a program in a shell, with its streams as they are said."""
    line = f"set -o pipefail; '{sys.executable}' {program} {streams}"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120, input="so\n")
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("program", [HELP, PAIRS, CHAT, ANSWER])
def test_a_reader_that_has_enough_ends_it_quietly(program: str) -> None:
    code, out, err = ended(program, "| true")
    assert code in (0, 1)  # a short text may be written before the reader has gone
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert out == ""


@pytest.mark.parametrize("program", [HELP, CHAT])
@pytest.mark.parametrize("closed", [">&-", "<&-", ">&- 2>&- <&-"])
def test_without_a_stream_it_does_what_it_can(program: str, closed: str) -> None:
    code, out, err = ended(program, closed)
    assert code == 0
    assert "Error" not in err
    assert bool(out) == (program == HELP and closed == "<&-")


def test_without_standard_error_the_answer_comes() -> None:
    for streams in ("2>&-", "2> >(true)"):
        code, out, err = ended(CHAT, streams)
        assert (code, out, err) == (0, "You said so\n", "")


@pytest.mark.parametrize("streams", ["2>&-", "2> >(true)"])
def test_a_mistake_that_nobody_can_be_told_is_one(streams: str) -> None:
    assert ended(MISTAKE, streams) == (2, "", "")


@pytest.mark.parametrize(
    ("program", "streams", "told"),
    [
        (HELP, ">/dev/full", "Error: cannot write: No space left on device\n"),
        (HELP, "1</dev/null", "Error: cannot write: Bad file descriptor\n"),
        ("-m helix_mlx generate", "0>/dev/null", "Error: cannot read standard input: Bad file descriptor; "),
        (CHAT, "0>/dev/null 2>&1 | tail -1 >&2", "Error: cannot read standard input: Bad file descriptor; "),
    ],
)
def test_a_stream_that_cannot_be_used_is_told_in_one_line(program: str, streams: str, told: str) -> None:
    code, out, err = ended(program, streams)
    assert (code, out) == (2, "")
    assert err.startswith(told)
    assert err.count("\n") == 1


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    code = (
        "import os; from helix_mlx.cli.console.terminal import open_streams; open_streams(); "
        "os.write(1, b'x'); assert os.read(0, 1) == b''; assert os.open('README.md', os.O_RDONLY) > 2"
    )
    assert ended(f'-c "{code}"', ">&- <&-") == (0, "", "")
