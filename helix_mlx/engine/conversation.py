"""A conversation: the prefix cache keeps its pages between turns, so that a turn prefills only what is new."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Sequence as Seq
from types import TracebackType
from typing import TYPE_CHECKING

from helix_mlx.engine.core import EngineCore
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.engine.streaming import read
from helix_mlx.request import Chunk, Request, SamplingParams, StreamSettings
from helix_mlx.types import Message

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Conversation:
    """Turns on an engine, of which the last one's very tokens are kept. A context manager.

    Args:
        core: the engine it runs on.
        owner: kept alive as long as the conversation.
    """

    def __init__(self, core: EngineCore, owner: object = None) -> None:
        self._core = core
        self._owner = owner
        self._running: Generator[Chunk] | None = None
        self._last: Sequence | None = None
        self._last_prompt = ""

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "not begun" if self._last is None else f"{self._last.prompt_tokens} tokens in its last prompt"
        return f"<Conversation: {state}>"

    def stream(
        self,
        messages: Seq[Message],
        params: SamplingParams | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Generator[Chunk]:
        """Answer the conversation so far, piece by piece.

        Args:
            messages: all of it, the new message last. Whole pages of what came before are not read again, as long
                as the prefix cache holds them. An answer goes in as the `message` of its last chunk, or as its text.
            params, settings: as in `Engine.stream_chat`.

        Yields:
            A chunk a token, and a last one with the finish reason and the stats.

        Raises:
            HelixError: the conversation does not fit the context, or a setting is out of range.
        """
        self._stop_running()
        cancel, progress = settings.pop("cancel", None), settings.pop("progress", None)
        request = Request.of(messages, params, settings, self._core.defaults)
        assert request.params is not None
        prompt = self._core.tokenizer.render_chat(request)
        sequence = self._core.sequence(self._tokens(prompt), request.params, request.draft_tokens, request.drafter)
        sequence.priority = request.priority
        self._last, self._last_prompt = sequence, prompt
        self._running = read(self._core, sequence, cancel, progress, self._owner)
        return self._running

    def reset(self) -> None:
        """Forget everything."""
        self._stop_running()
        self._last, self._last_prompt = None, ""

    def close(self) -> None:
        """The same as `reset`."""
        self.reset()

    def _stop_running(self) -> None:
        """End an answer that its reader has left, so that its whole pages can be found."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _tokens(self, prompt: str) -> list[int]:
        """The prompt's tokens, on top of the very tokens that were generated where the text goes on from them.

        A model does not always write its answer in the tokens that its tokenizer would choose for the text.
        """
        last = self._last
        if last is not None and last.emitted and last.tokens[-1] in last.eos_ids:
            so_far = self._last_prompt + last.answer.text
            if prompt.startswith(so_far):
                return last.tokens[:-1] + self._core.tokenizer.encode_continued(prompt[len(so_far) :])
        return self._core.tokenizer.encode_rendered(prompt)
