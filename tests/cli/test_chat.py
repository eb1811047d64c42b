"""A chat at a terminal, seen through a pseudo-terminal, and a chat through a pipe."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from helix_mlx.cli.chat import LoadedModel, converse, switch_model
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.options import Options
from helix_mlx.cli.session.repl import Repl
from helix_mlx.errors import ModelError
from helix_mlx.request import SamplingParams
from tests.cli.conftest import Run
from tests.cli.fakes import FakeEngine, FakeTalk
from tests.cli.golden_files import Script

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 60
Start = Callable[..., "Session"]


class Session:
    """A program in a pseudo-terminal: what is typed into it, and what it shows."""

    def __init__(
        self, words: tuple[str, ...], environment: dict[str, str], module: str = "tests.cli.fake_chat"
    ) -> None:
        self.keyboard, inside = pty.openpty()
        command = [sys.executable, "-m", module, *words]
        self.process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, cwd=ROOT, env=environment, start_new_session=False
        )
        os.close(inside)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def expect(self, text: str, pressing: str = "") -> str:
        """Wait until a text is shown; return what came up to its end, and look for the next one after that.

        `pressing` is typed whenever nothing comes for a second: Python's readline overlooks a Ctrl-C that comes
        while it is busy with the key before.
        """
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            if select.select([self.keyboard], [], [], 1)[0]:
                self.shown += self._read()
            else:
                self.type(pressing)
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was shown until then."""
        while piece := self._read():
            self.shown += piece
        return self.process.wait(PATIENCE_S), self.shown

    def _read(self) -> str:
        try:
            return os.read(self.keyboard, 4096).decode(errors="replace")
        except OSError:  # Linux says so when the program has closed its end
            return ""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    sessions = []

    def start_chat(*words: str, **extra: str) -> Session:
        kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "INPUTRC")}
        environment = {**kept, "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path), **extra}
        session = Session(words, environment)
        sessions.append(session)
        session.expect("> " if extra.get("NO_COLOR") or "--no-color" in words else ">\x1b[0m ")
        return session

    yield start_chat
    for session in sessions:
        session.process.kill()
        session.process.wait()
        os.close(session.keyboard)


def test_an_answer_comes_in_two_shades_with_a_status_line(start: Start) -> None:
    chat = start()
    chat.type("hello there\n")
    assert "You\x1b[36m said\x1b[0m hello\x1b[36m there\x1b[0m" in chat.expect("there\x1b[0m\r\n")
    assert "50 tokens/s" in chat.expect("tokens/pass\x1b[0m")


def test_ctrl_c_stops_the_answer_and_not_the_program(start: Start) -> None:
    chat = start()
    chat.type("for ever\n")
    chat.expect(" 1 2 3")
    chat.type("\x03")
    chat.expect("stopped")
    chat.type("still there?\n")
    chat.expect("You\x1b[36m said\x1b[0m still")
    assert chat.process.poll() is None


def test_ctrl_c_at_the_prompt_clears_the_line_and_says_how_to_leave(start: Start) -> None:
    chat = start()
    chat.type("half a tho")
    chat.expect("half a tho")
    chat.expect("Press Ctrl-D or type /quit to quit.", pressing="\x03")
    chat.expect(">\x1b[0m ")
    chat.type("whole\n")
    chat.expect("You\x1b[36m said\x1b[0m whole")


@pytest.mark.parametrize("keys", ["\x04", "/quit\n"])
def test_ctrl_d_and_quit_leave(start: Start, keys: str) -> None:
    chat = start()
    chat.type(keys)
    code, _ = chat.end()
    assert code == 0


def test_an_error_is_one_line_and_the_chat_goes_on(start: Start) -> None:
    chat = start("--no-color")
    for line in ("too long\n", "/draft 9\n", "/nothing\n"):
        chat.type(line)
        assert "Traceback" not in chat.expect("Error: ")
    chat.type("hello\n")
    chat.expect("You said hello")


@pytest.mark.parametrize(("words", "extra"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"})])
def test_no_color_means_no_escape_code(start: Start, words: list[str], extra: dict[str, str]) -> None:
    chat = start(*words, **extra)
    chat.type("hello\n")
    answer = chat.expect("tokens/pass")
    assert "You said hello" in answer
    assert "\x1b[3" not in answer
    assert "\x1b[2m" not in answer


def test_the_demonstration_pair_says_so_once(start: Start) -> None:
    chat = start("--no-color")
    chat.type("one\n")
    chat.expect("tokens/pass")
    chat.type("/quit\n")
    _, rest = chat.end()
    assert "demonstration" not in rest


def test_lines_are_remembered_and_come_back(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("readline")
    chat = start("--no-color")
    chat.type("remember me\n")
    chat.expect("tokens/pass")
    chat.expect("> ")
    chat.type("\x04")
    chat.end()
    history = tmp_path / "helix-mlx" / "history"
    assert history.read_text() == "remember me\n"
    assert history.stat().st_mode & 0o777 == 0o600
    again = start("--no-color")
    again.type("\x1b[A\n")
    again.expect("You said remember me")


def test_a_pipe_gets_the_answers_and_nothing_else(engine: FakeEngine, run: Run) -> None:
    result = run("chat", text="one\n\n/set temperature 0.5\ntwo")
    assert result.exit_code == 0
    assert result.stdout == "You said one\ntemperature 0.5\nYou said two\n"
    assert "demonstration pair" in result.stderr
    assert "\x1b" not in result.output


def test_an_error_in_a_pipe_ends_the_chat(engine: FakeEngine, run: Run) -> None:
    result = run("chat", text="one\n/draft 9\ntwo\n")
    assert result.exit_code == 2
    assert result.stdout == "You said one\n"
    assert "Error: draft-tokens is 9" in result.stderr


def test_what_is_no_text_is_one_line() -> None:
    program = [sys.executable, "-m", "tests.cli.fake_chat"]
    ended = subprocess.run(program, input=b"caf\xe9\n", capture_output=True, cwd=ROOT)
    assert ended.returncode == 2
    assert ended.stderr.decode().endswith("Error: the input is not valid UTF-8; convert it first\n")


def test_the_built_in_pair_answers_through_a_pipe(run: Run) -> None:
    result = run("chat", "tiny", "--max-tokens", "12", text="What is Helix?\nWhat is a page?\n/stats\n")
    assert result.exit_code == 0
    first, second, *stats = result.stdout.splitlines()
    assert first.startswith("Helix")
    assert second
    assert any("pages in use" in line for line in stats)


def test_lines_between_quotes_are_one_message_in_a_pipe_and_never_a_command(engine: FakeEngine, run: Run) -> None:
    result = run("chat", text='"""\n/quit\nnow\n"""\n"""/stats"""\n""""""\nend\n')
    assert result.stdout == "You said /quit\nnow\nYou said /stats\nYou said end\n"


def test_a_pipe_that_ends_within_a_message_is_one_line(engine: FakeEngine, run: Run) -> None:
    result = run("chat", text='one\n"""two\n')
    assert result.exit_code == 2
    assert result.stdout == "You said one\n"
    assert result.stderr.endswith('Error: the input ended inside a message; close the message with """\n')


def test_lines_between_quotes_at_a_keyboard(start: Start) -> None:
    chat = start("--no-color")
    chat.type('"""one\n')
    chat.expect("... ")
    chat.type('two"""\n')
    chat.expect("You said one\r\ntwo")
    chat.type('"""half\n')
    chat.expect("... ")
    chat.type("\x04")
    chat.expect("Error: the input ended inside a message")
    chat.type("still there\n")
    chat.expect("You said still there")


def test_an_answer_again_is_a_line_of_json_too(engine: FakeEngine, run: Run) -> None:
    result = run("chat", "--json", "--seed", "5", "--temperature", "1", text="one\n/retry\n")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["You said one"] * 2
    assert "the next seed, 6" in result.stderr


class Loader:
    """Loads fake engines and notes what was loaded and closed, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.talks: list[FakeTalk] = []
        self.alive = 0
        self._engines: list[weakref.ref[FakeEngine]] = []
        self.broken: set[str] = set()
        monkeypatch.setattr("helix_mlx.cli.chat.open_engine", self.open)
        monkeypatch.setattr("helix_mlx.cli.loading.named_pair", lambda name: None)

    def open(self, options: Options, terminal: Terminal) -> FakeEngine:
        name = options["model"] or "first"
        self.done.append(f"load {name}")
        self.alive = max(self.alive, sum(engine() is not None for engine in self._engines))
        if name in self.broken:
            raise ModelError(f"{name} is broken")
        done = self.done

        class Engine(FakeEngine):
            def __exit__(self, *error: object) -> None:
                done.append(f"close {name}")

        engine = Engine(is_demo=False)
        engine.name, engine.defaults = name, {"temperature": 0.6, "top_k": 20} if name == "second" else {}
        self.talks.append(engine.talk)
        self._engines.append(weakref.ref(engine))
        return engine


def test_another_model_is_loaded_after_the_first_is_closed_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    loader = Loader(monkeypatch)
    result = run("chat", "--top-k", "3", text="one\n/model second\ntwo\n")
    assert result.exit_code == 0
    assert loader.done == ["load first", "close first", "load second", "close second"]
    assert loader.alive == 0, "two models share the memory"
    ((messages, params, _),) = loader.talks[1].asked
    assert [message["content"] for message in messages] == ["one", "You said one", "two"]
    assert params is not None
    assert (params.temperature, params.top_k) == (0.6, 3)


def test_a_model_that_cannot_be_loaded_leaves_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(monkeypatch)
    loader.broken.add("second")
    out = io.StringIO()
    terminal = Terminal(out, out, live=True, colour=False, live_errors=False)
    options = {"model": None, "pair": None, "target": None, "draft": None}
    with LoadedModel(options, terminal) as loaded:
        repl = Repl(*loaded.open(options), terminal, SamplingParams())
        repl.switch_model = partial(switch_model, repl, loaded)
        converse(repl, Script(terminal, "one\n/model second\ntwo\n/quit"))
        assert "Error: second is broken; still using first\n> two\nYou said two" in out.getvalue()
        assert loader.done == ["load first", "close first", "load second", "load first"]
        assert loader.alive == 0
        loader.broken.add("first")
        with pytest.raises(ModelError, match="first is broken"):
            converse(repl, Script(terminal, "/model second\ntwo\n/quit"))


def test_the_name_of_no_pair_costs_nothing(engine: FakeEngine, run: Run) -> None:
    result = run("chat", text="/model qwen3-8\n")
    assert result.exit_code == 2
    assert "there is no pair named qwen3-8 (did you mean qwen3-8b?)" in result.stderr
