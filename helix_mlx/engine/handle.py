"""What a caller holds of a submitted request: its chunks as they come, its result, and the way to stop it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from helix_mlx.errors import SettingsError
from helix_mlx.request import Chunk, Completion
from helix_mlx.thinking import ReasoningSplitter, ThinkMarks

_PROGRESS_KEPT = 256
"""Steps of prefill that a handle remembers for a reader who may never come."""


@dataclass(frozen=True)
class News:
    """What a reader has not seen yet: chunks, and prompt tokens read, done and in all."""

    chunks: tuple[Chunk, ...]
    progress: tuple[tuple[int, int], ...]


class Handle:
    """A submitted request. May be read and cancelled from any thread, and iterated with `for` or `async for`.

    Args:
        answers: n, the answers that were asked for.
        cancel: called once, where somebody no longer wants them.
        completed: makes the completion of the answer of an index, once it has ended.
        marks: the marks of the reasoning in the answer of an index, if it can have any.
    """

    def __init__(
        self,
        answers: int,
        cancel: Callable[[], None],
        completed: Callable[[int], Completion],
        marks: Callable[[int], ThinkMarks | None] = lambda _: None,
    ) -> None:
        self._cancel = cancel
        self._completed = completed
        self._splitters = [ReasoningSplitter(marks(index)) for index in range(answers)]
        self._condition = threading.Condition()
        self._chunks: deque[Chunk] = deque()
        self._progress: deque[tuple[int, int]] = deque(maxlen=_PROGRESS_KEPT)
        self._running = answers
        self._completions: list[Completion | None] = [None] * answers
        self._error: BaseException | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.owner: object = None  # kept alive as long as the handle

    def __repr__(self) -> str:
        answers = len(self._completions)
        state = "failed" if self._error else "done" if self.done else "running"
        return f"<Handle: {answers} answer{'s' if answers > 1 else ''}, {state}>"

    @property
    def done(self) -> bool:
        """Whether every answer has ended, or the request has failed."""
        return self._running == 0

    def cancel(self) -> None:
        """End what is still running with finish reason "cancelled", and give its pages back."""
        if not self.done:
            self._cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is done and holds no page any more; False where `timeout` seconds passed before."""
        with self._condition:
            return self._condition.wait_for(lambda: self.done, timeout)

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the whole answer.

        Raises:
            HelixError: the request failed, or has several answers.
            TimeoutError: `timeout` seconds passed before it ended.
        """
        if len(self._completions) != 1:
            raise SettingsError(f"this request has {len(self._completions)} answers; use results() to get them all")
        return self.results(timeout)[0]

    def results(self, timeout: float | None = None) -> list[Completion]:
        """Wait for all n answers; raises as `result` does."""
        if not self.wait(timeout):
            raise TimeoutError(f"the request did not finish within {timeout} seconds")
        self._raise()
        found = []
        for completion in self._completions:
            assert completion is not None
            found.append(completion)
        return found

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks as they come, the last one of each answer with its finish reason and stats.

        Raises:
            HelixError: the request failed.
        """
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._chunks or self.done)
                if not self._chunks:
                    break
                chunk = self._chunks.popleft()
            yield chunk
        self._raise()

    def news(self, timeout: float | None = None) -> News | None:
        """Wait for what has come since the last call; None at the end, and nothing in it after `timeout` seconds.

        Raises:
            HelixError: the request failed.
        """
        # Made before, since whatever a collection of garbage ends must not wait while the lock is held.
        chunks: deque[Chunk] = deque()
        progress: deque[tuple[int, int]] = deque(maxlen=_PROGRESS_KEPT)
        with self._condition:
            self._condition.wait_for(lambda: self._chunks or self._progress or self.done, timeout)
            chunks, self._chunks = self._chunks, chunks
            progress, self._progress = self._progress, progress
            done = self.done
        if chunks or progress or not done:
            return News(tuple(chunks), tuple(progress))
        self._raise()
        return None

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """The same for `async for`; leaving the loop does not cancel the request, `cancel` does."""
        while True:
            waiting = asyncio.get_running_loop().create_future()
            with self._condition:
                chunk = self._chunks.popleft() if self._chunks else None
                done = self.done
                if chunk is None and not done:
                    self._waiters.append((waiting.get_loop(), waiting))
            if chunk is not None:
                yield chunk
            elif done:
                self._raise()
                return
            else:
                await waiting

    def deliver(self, chunks: Iterable[Chunk]) -> None:
        """The engine's side: chunks for the reader; those with a finish reason end an answer."""
        with self._condition:
            if self.done:
                return
            for chunk in chunks:
                if chunk.finish_reason is not None:
                    completion = self._completed(chunk.index)
                    self._completions[chunk.index] = completion
                    self._running -= 1
                    chunk = replace(chunk, message=completion.message)
                self._chunks.extend(self._split(chunk))
            self._tell()

    def _split(self, chunk: Chunk) -> list[Chunk]:
        """A chunk, or several where reasoning begins or ends in the middle of it; the last has what ends an answer."""
        splitter = self._splitters[chunk.index]
        pieces = splitter.push(chunk.text)
        if chunk.finish_reason is not None:
            pieces += splitter.finish()
        if len(pieces) < 2:
            text, reasoning = pieces[0] if pieces else ("", splitter.reasons)
            return [replace(chunk, text=text, reasoning=reasoning)]
        plain = replace(chunk, finish_reason=None, stats=None, message=None)
        found = [replace(plain, text=text, reasoning=reasoning, token=None) for text, reasoning in pieces]
        found[0] = replace(found[0], token=chunk.token)
        found[-1] = replace(chunk, text=found[-1].text, reasoning=found[-1].reasoning, token=None)
        return found

    def tell_progress(self, done: int, total: int) -> None:
        """The engine's side: tokens of the prompt that have been read, and those to be read."""
        with self._condition:
            self._progress.append((done, total))
            self._condition.notify_all()

    def fail(self, error: BaseException) -> None:
        """The engine's side: nothing more will come, for this reason."""
        with self._condition:
            if not self.done:
                self._error, self._running = error, 0
                self._tell()

    def _tell(self) -> None:
        self._condition.notify_all()
        waiters, self._waiters = self._waiters, []
        for loop, waiting in waiters:
            with suppress(RuntimeError):  # a loop that has ended has nobody waiting in it any more
                loop.call_soon_threadsafe(_wake, waiting)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


def _wake(waiting: asyncio.Future[Any]) -> None:
    if not waiting.done():
        waiting.set_result(None)
