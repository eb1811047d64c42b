"""The one thread that owns MLX: takes in requests from any number of threads and steps until all are answered.

Since MLX 0.31.2 what a thread has put on a stream belongs to that thread, so nothing that is still lazy may cross.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import mlx.core as mx

from helix_mlx.engine.execution.runner import Event, Runner
from helix_mlx.engine.handle import Handle
from helix_mlx.engine.metrics import Metrics
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.errors import ClosedError
from helix_mlx.request import Chunk

COUNT_EVERY_S = 0.02
"""How old metrics may be while the same answers go on."""

T = TypeVar("T")
Call = tuple[Callable[[], None], "Future[Any]"]
"""Something to do, and who is told where it is never done."""


class EngineThread:
    """Runs a runner on a thread of its own, which starts with the first request and sleeps while there is none.

    Args:
        runner: nobody else may call it.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._condition = threading.Condition()
        self._inbox: deque[tuple[Sequence, Handle]] = deque()
        self._calls: list[Call] = []
        self._handles: dict[Sequence, Handle] = {}
        self._errors: dict[Handle, Exception] = {}
        self._thread: threading.Thread | None = None
        self._closed = False
        self.metrics: Metrics = runner.metrics()
        self._population = runner.population
        self._counted_at = time.monotonic()

    def submit(self, requests: list[tuple[Sequence, Handle]]) -> None:
        """Hand over sequences, with their copies, and who waits for them; all of them before the next step.

        Raises:
            ClosedError: the engine has been closed.
        """
        with self._condition:
            self._start()
            self._inbox.extend(requests)
            self._condition.notify()

    def call(self, work: Callable[[], T]) -> T:
        """Do something on the engine's thread when nothing runs there, and wait for it; requests wait meanwhile.

        Raises:
            ClosedError: the engine has been closed.
        """
        assert not self.is_current
        future: Future[T] = Future()

        def done() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # the caller's to handle, whatever it is
                future.set_exception(error)

        with self._condition:
            self._start()
            self._calls.append((done, future))
            self._condition.notify()
        return future.result()

    def wake(self) -> None:
        """Something changed that a sleeping thread should see."""
        with self._condition:
            self._condition.notify()

    def check_open(self) -> None:
        """Raise ClosedError where the engine has been closed."""
        if self._closed:
            raise ClosedError("the engine is closed; load a new one")

    @property
    def is_current(self) -> bool:
        """Whether the caller is on the engine's own thread, which must not wait for itself."""
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """Let the thread end after the step it is in; whoever waits is told so. Waits for nothing."""
        with self._condition:
            self._closed = True
            self._condition.notify()

    def close(self) -> None:
        """The same, and wait until it has ended. Safe to call twice."""
        self.stop()
        if self._thread is not None and not self.is_current:
            self._thread.join()

    def _start(self) -> None:
        """Start the thread where there is none yet; the condition is held."""
        self.check_open()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="helix-engine", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        try:
            while self._take_in():
                self._step()
        finally:
            with self._condition:
                self._closed = True  # whatever ended it, nobody is to wait for a thread that is gone
            try:
                self._runner.abandon()
            finally:
                self._fail_all(ClosedError("the engine was closed before the answer ended; load a new one"))
                mx.clear_streams()

    def _take_in(self) -> bool:
        """Wait for something to do; False once the engine is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._inbox or self._calls or not self._runner.idle)
            if self._closed:
                return False
            calls: list[Call] = []
            if self._runner.idle:
                calls, self._calls = self._calls, []
            arrived, self._inbox = self._inbox, deque()
        for done, _ in calls:
            done()
        for sequence, handle in arrived:
            for each in (sequence, *sequence.copies):
                self._handles[each] = handle
            self._runner.add(sequence)
        return True

    def _step(self) -> None:
        try:
            events = self._runner.step()
        except BaseException as error:  # whatever it is, those who wait on other threads have to hear of it
            self._runner.abandon()
            # Its frames hold the pool's arrays, and as long as anybody does, no commit is in place.
            traceback.clear_frames(error.__traceback__)
            self._count(at_once=True)
            self._fail_all(error)
            return
        # A reader that has the last chunk finds the pages given back.
        self._count(at_once=any(not new or new[-1].finish_reason is not None for _, new in events))
        self._deliver(events)

    def _count(self, *, at_once: bool) -> None:
        """Renew the metrics where others run or wait than before, or a moment has passed; counting costs time, too."""
        now, population = time.monotonic(), self._runner.population
        if at_once or population != self._population or now - self._counted_at > COUNT_EVERY_S:
            self.metrics = self._runner.metrics()
            self._population, self._counted_at = population, now

    def _deliver(self, events: list[Event]) -> None:
        chunks: dict[Handle, list[Chunk]] = {}
        for sequence, new in events:
            chunks.setdefault(self._handles[sequence], []).extend(new)
        for handle, new in chunks.items():
            try:
                handle.deliver(new)
            except Exception as error:  # of one request, which the others have nothing to do with
                self._errors[handle] = error
        for sequence, new in events:
            if sequence.error is not None:
                self._errors.setdefault(self._handles[sequence], sequence.error)
            if not new or new[-1].finish_reason is not None:
                del self._handles[sequence]
        if self._errors:
            self._fail_some()

    def _fail_some(self) -> None:
        """End the requests of which an answer has failed: its other answers first, so that no page is held after."""
        held = dict.fromkeys(self._errors, False)
        for sequence, handle in self._handles.items():
            if handle in held:
                sequence.cancel_wanted = held[handle] = True
        for handle, waits in held.items():
            if not waits:
                handle.fail(self._errors.pop(handle))

    def _fail_all(self, error: BaseException) -> None:
        with self._condition:
            handles = {*self._handles.values(), *(handle for _, handle in self._inbox if self._closed)}
            calls = self._calls if self._closed else []
            self._handles.clear()
            self._errors.clear()
            if self._closed:
                self._inbox.clear()
                self._calls = []
        for handle in handles:
            handle.fail(error)
        for _, future in calls:
            future.set_exception(error)
