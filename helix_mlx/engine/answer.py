"""The text of an answer as it grows: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_lm.tokenizer_utils import StreamingDetokenizer


class Answer:
    """Turns tokens into text that may be shown.

    What could be the beginning of a stop string is held back until it is decided, across token boundaries.

    Args:
        detokenizer: a fresh one of mlx-lm's.
        stop: texts that end the answer; none of them is ever shown.
    """

    def __init__(self, detokenizer: StreamingDetokenizer, stop: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._stop = tuple(stop)
        self._held = ""
        self.text = ""
        self.stopped = False
        self._finished = False

    def push(self, token: int) -> str:
        """Add a token; return the text that can be shown now. Sets `stopped` where a stop string is complete."""
        self._detokenizer.add_token(token)
        return self._show(self._detokenizer.last_segment)

    def finish(self) -> str:
        """The text still held back, at the end of the answer."""
        if self.stopped or self._finished:
            return ""
        self._finished = True
        self._detokenizer.finalize()
        # A character that the end cut in half comes out as replacement characters: show nothing rather than half.
        shown = self._show(self._detokenizer.last_segment.rstrip("\ufffd"))
        if self.stopped:
            return shown
        rest, self._held = self._held, ""
        self.text += rest
        return shown + rest

    def _show(self, new: str) -> str:
        assert not self.stopped
        self._held += new
        found = [at for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
        else:
            keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
            cut = len(self._held) - keep
            shown, self._held = self._held[:cut], self._held[cut:]
        self.text += shown
        return shown


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
