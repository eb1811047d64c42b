"""Reading one answer in the caller's own thread, with a way out while it is waited for."""

from __future__ import annotations

from collections.abc import Generator

from helix_mlx.engine.core import EngineCore
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.request import Chunk
from helix_mlx.types import Cancel, Progress

_ASK_EVERY_S = 0.05
"""How long a reader waits before it asks again whether it is to stop."""


def read(
    core: EngineCore, sequence: Sequence, cancel: Cancel | None, progress: Progress | None, owner: object
) -> Generator[Chunk]:
    """Submit a sequence when the first chunk is asked for, and hand on its chunks.

    Leaving the generator ends the answer, and returns when its pages have been given back.

    Args:
        core: the engine that runs it.
        sequence: not submitted yet.
        cancel: True ends the answer.
        progress: told of prompt tokens read, done and in all.
        owner: kept alive as long as the generator.
    """
    sequence.cancel_wanted = cancel is not None and cancel()
    (handle,) = core.submit([[sequence]])
    handle.owner = owner
    try:
        while (news := handle.news(_ASK_EVERY_S if cancel is not None else None)) is not None:
            for done, total in news.progress:
                if progress is not None:
                    progress(done, total)
            for chunk in news.chunks:
                yield chunk
                if cancel is not None and cancel():
                    handle.cancel()
            if cancel is not None and not news.chunks and cancel():
                handle.cancel()
    finally:
        handle.cancel()
        # A collection of garbage may end this generator on any thread.
        if not core.thread.is_current:
            handle.wait()
