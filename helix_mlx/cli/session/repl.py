"""A chat without its keyboard: the conversation's state, and answering a message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from helix_mlx.cli.console.interrupt import ctrl_c_as_flag
from helix_mlx.cli.console.progress import ProgressBar
from helix_mlx.cli.console.terminal import DIM, Terminal
from helix_mlx.cli.console.text import checked_text
from helix_mlx.cli.session.painter import Painter
from helix_mlx.cli.session.status import status_line
from helix_mlx.errors import HelixError, MemoryBudgetError, PromptError, SettingsError
from helix_mlx.request import Chunk, SamplingParams, Stats, StreamSettings
from helix_mlx.types import Message

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from helix_mlx.config import EngineConfig
    from helix_mlx.engine.memory import MemoryReport

UNANSWERED = "The model reasoned but gave no answer; raise --max-tokens, or try --thinking off."


class Talk(Protocol):
    """The part of a `Conversation` that a chat uses."""

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        **settings: Unpack[StreamSettings],
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

    def unread(self, thinking: bool | None, template_args: Mapping[str, Any] | None) -> list[str]:
        """Settings that its chat template does not read."""
        ...

    def memory(self) -> MemoryReport:
        """What its page pool holds."""
        ...


class Repl:
    """A conversation with an engine, and its settings.

    Attributes:
        params: the settings of the next answer.
        draft_tokens: K of the next answer; None leaves it to the engine.
        thinking: whether the model reasons before the next answer; None leaves it to its chat template.
        template_args: further variables of the chat template.
        origins: where the value of a setting is from, by its field, unless it is what it always is.
        messages: the conversation so far, a system message first where there is one.
        last_stats: what the last answer cost, if there was one.
        stopped: whether Ctrl-C ended the last answer.
        attached: whether there is an engine; there is none while another model is loaded.
        switch_model: loads another model for this chat, by name, where it can be changed.

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
        self.thinking: bool | None = None
        self.template_args: dict[str, Any] = {}
        self.origins: dict[str, str] = {}
        self.messages: list[Message] = []
        self.last_stats: Stats | None = None
        self.stopped = False
        self.attached = True
        self.switch_model: Callable[[str], None] | None = None
        self._taken_back: str | None = None
        self.set_system(system)

    @property
    def system(self) -> str | None:
        """The system message, if there is one."""
        first = self.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else None

    def set_system(self, text: str | None) -> None:
        """Replace or remove the system message."""
        text = checked_text(text) if text else None
        rest = self.messages[1:] if self.system is not None else self.messages
        self.messages = [{"role": "system", "content": text}, *rest] if text else list(rest)

    def reset(self) -> None:
        """Clear the conversation and release its pages. The system message and the settings are kept."""
        self.messages = self.messages[:1] if self.system is not None else []
        self.last_stats = self._taken_back = None
        self.talk.reset()

    def resume(self, messages: Sequence[Message]) -> None:
        """Replace the conversation, including its system message."""
        self.reset()
        self.messages = list(messages)

    def detach(self) -> None:
        """Release the engine, so that its memory is free before another one is loaded."""
        self.attached = False
        del self.engine, self.talk

    def attach(self, engine: ChatEngine, talk: Talk) -> None:
        """Continue with an engine; messages and settings are kept."""
        self.engine, self.talk, self.attached = engine, talk, True

    def ask(self, text: str) -> None:
        """Send a message and stream the answer; Ctrl-C stops it and keeps what was said so far.

        Raises:
            HelixError: it cannot be answered; the conversation is as it was before.
        """
        self._taken_back = text
        if self._answer([*self.messages, {"role": "user", "content": text}], "your message was removed"):
            self._taken_back = None

    def retry(self) -> int | None:
        """Answer the last message again, replacing its answer. If a seed is in use, take the next one.

        Returns:
            The new seed, where it changed.

        Raises:
            SettingsError: there is no message yet.
            HelixError: it cannot be answered; the conversation is as it was before.
        """
        last = next((at for at in reversed(range(len(self.messages))) if self.messages[at]["role"] == "user"), None)
        if last is None and self._taken_back is None:
            raise SettingsError("there is no message to retry yet")
        seed = None
        if self.params.seed is not None and self.params.temperature > 0:
            seed = (self.params.seed + 1) % 2**64
            self.params = replace(self.params, seed=seed)
        if self._taken_back is not None:
            self.ask(self._taken_back)
        elif last is not None:
            self._answer(self.messages[: last + 1], "the previous answer is kept")
        return seed

    def _answer(self, asked: list[Message], otherwise: str) -> bool:
        """Answer a conversation and keep it if there is an answer; else print `otherwise`.

        Returns:
            Whether there was an answer.
        """
        whole, answer, last = self._show_answer(asked)
        if whole:
            self.messages = [*asked, dict(last.message or {"role": "assistant", "content": whole})]
        self.last_stats = last.stats or self.last_stats
        self.stopped = last.finish_reason == "cancelled"
        if self.as_json:
            stats = last.stats.to_json() if last.stats else None
            reasoning = (last.message or {}).get("reasoning_content")
            found = {
                "text": whole,
                "reasoning": None if reasoning is None else reasoning.strip(),
                "content": answer,
                "finish_reason": last.finish_reason,
                "stats": stats,
            }
            self.terminal.line(json.dumps(found, ensure_ascii=False))
        elif whole and not answer and not self.terminal.live:
            self.terminal.error_line(UNANSWERED)
        if self.as_json or not self.terminal.live:
            return bool(whole)
        if whole and last.stats:
            self.terminal.line(status_line(last), DIM)
        else:
            ended = "stopped before the first word" if self.stopped else "no answer"
            self.terminal.line(f"{ended}; {otherwise}", DIM)
        return bool(whole)

    def _show_answer(self, messages: list[Message]) -> tuple[str, str, Chunk]:
        """Stream an answer to the terminal; return its whole text, the text without reasoning, and the last chunk."""
        bar, painter = ProgressBar(self.terminal, "Reading the prompt"), Painter(self.terminal)
        whole, answer, last = "", "", Chunk("")
        with ctrl_c_as_flag() as stopped:
            chunks = self.talk.stream(
                messages,
                self.params,
                draft_tokens=self.draft_tokens,
                thinking=self.thinking,
                template_args=self.template_args,
                cancel=stopped,
                progress=bar.update,
            )
            try:
                for last in chunks:
                    bar.wipe()
                    if not self.as_json:
                        painter.write(last)
                    whole += last.text
                    answer += "" if last.reasoning else last.text
            finally:
                bar.wipe()
                painter.end()
        if not self.as_json:
            painter.end_line()
        return whole, answer, last

    def explain(self, error: HelixError) -> str:
        """An error message with a hint that fits a chat."""
        full = isinstance(error, PromptError | MemoryBudgetError) and len(self.messages) > 1
        return f"{error} (/reset clears the conversation)" if full else str(error)
