"""A chat without its keyboard: the conversation's state, and what one line of input does to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from helix_mlx.cli.interrupt import ctrl_c_as_flag
from helix_mlx.cli.progress import ProgressBar
from helix_mlx.cli.status import status_line
from helix_mlx.cli.terminal import DIM, SHADE, Terminal
from helix_mlx.cli.text import checked_text
from helix_mlx.errors import HelixError, MemoryBudgetError, PromptError
from helix_mlx.request import Chunk, SamplingParams, Stats

if TYPE_CHECKING:
    from helix_mlx.config import EngineConfig
    from helix_mlx.engine.memory import MemoryReport

Message = dict[str, str]


class Talk(Protocol):
    """The part of a `Conversation` that a chat uses."""

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        draft_tokens: int | None = None,
        cancel: Callable[[], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Chunk]:
        """Answer the conversation so far."""
        ...

    def reset(self) -> None:
        """Forget everything."""
        ...


class ChatEngine(Protocol):
    """The part of an `Engine` that a chat uses."""

    @property
    def name(self) -> str:
        """The pair's name."""
        ...

    @property
    def has_draft(self) -> bool:
        """Whether there is a draft to speculate with."""
        ...

    @property
    def is_demo(self) -> bool:
        """Whether it is the demonstration pair."""
        ...

    @property
    def config(self) -> EngineConfig:
        """How it runs."""
        ...

    def memory(self) -> MemoryReport:
        """What its page pool holds."""
        ...


class Repl:
    """A conversation with an engine, and the settings it goes on with.

    Attributes:
        params: the settings of the next answer.
        draft_tokens: K of the next answer; None leaves it to the engine.
        messages: the conversation so far, a system message first where there is one.
        last_stats: what the last answer cost, if there was one.
        stopped: whether Ctrl-C ended the last answer.

    Args:
        engine: what answers.
        talk: the engine's conversation, which keeps its pages between turns.
        terminal: where answers go.
        params: the settings to begin with.
        system: a system message, if any.
        as_json: print each answer as a line of JSON, once it is whole.
    """

    def __init__(
        self,
        engine: ChatEngine,
        talk: Talk,
        terminal: Terminal,
        params: SamplingParams,
        system: str | None = None,
        as_json: bool = False,
    ) -> None:
        self.engine = engine
        self.talk = talk
        self.terminal = terminal
        self.as_json = as_json
        self.params = params
        self.draft_tokens = engine.config.draft_tokens
        self.messages: list[Message] = []
        self.last_stats: Stats | None = None
        self.stopped = False
        self.set_system(system)

    @property
    def system(self) -> str | None:
        """The system message, if there is one."""
        first = self.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else None

    def set_system(self, text: str | None) -> None:
        """Replace the system message, or take it away."""
        text = checked_text(text) if text else None
        rest = self.messages[1:] if self.system is not None else self.messages
        self.messages = [{"role": "system", "content": text}, *rest] if text else list(rest)

    def reset(self) -> None:
        """Forget the conversation, and give its pages back. The system message and the settings stay."""
        self.messages = self.messages[:1] if self.system is not None else []
        self.last_stats = None
        self.talk.reset()

    def ask(self, text: str) -> None:
        """Send a message and show the answer as it comes; Ctrl-C ends it, and what was said by then stays.

        Raises:
            HelixError: it cannot be answered; the conversation is as it was before.
        """
        asked: list[Message] = [*self.messages, {"role": "user", "content": text}]
        answer, last = self._show_answer(asked)
        if answer:
            self.messages = [*asked, {"role": "assistant", "content": answer}]
        self.last_stats = last.stats or self.last_stats
        self.stopped = last.finish_reason == "cancelled"
        if self.as_json:
            stats = last.stats.to_json() if last.stats else None
            found = {"text": answer, "finish_reason": last.finish_reason, "stats": stats}
            self.terminal.line(json.dumps(found, ensure_ascii=False))
        if self.as_json or not self.terminal.live:
            return
        if answer and last.stats:
            self.terminal.line(status_line(last), DIM)
        else:
            ended = "stopped before the first word" if self.stopped else "there was no answer"
            self.terminal.line(f"{ended}; your message was taken back", DIM)

    def _show_answer(self, messages: list[Message]) -> tuple[str, Chunk]:
        """Stream an answer to the terminal; return its text and its last chunk."""
        bar, painter, said = ProgressBar(self.terminal, "Reading"), _Painter(self.terminal), ""
        last = Chunk("")
        with ctrl_c_as_flag() as stopped:
            chunks = self.talk.stream(
                messages, self.params, draft_tokens=self.draft_tokens, cancel=stopped, progress=bar.update
            )
            try:
                for last in chunks:
                    bar.wipe()
                    if not self.as_json:
                        painter.write(last.text, last.from_draft)
                    said += last.text
            finally:
                bar.wipe()
                painter.end()
        if not said.endswith("\n") and not self.as_json:
            self.terminal.line()
        return said, last

    def explain(self, error: HelixError) -> str:
        """An error in words that fit a chat."""
        full = isinstance(error, PromptError | MemoryBudgetError) and len(self.messages) > 1
        return f"{error} (/reset forgets the conversation)" if full else str(error)


class _Painter:
    """Writes text, that of drafted tokens in another shade, with no more escape codes than changes of shade."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._shaded = False

    def write(self, text: str, from_draft: bool) -> None:
        if not text:
            return
        code = ""
        if self._terminal.colour and from_draft != self._shaded:
            code = f"\x1b[{SHADE}m" if from_draft else "\x1b[0m"
            self._shaded = from_draft
        self._terminal.write(code + text)

    def end(self) -> None:
        if self._shaded:
            self._terminal.write("\x1b[0m")
            self._shaded = False
