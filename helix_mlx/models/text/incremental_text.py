"""Incremental detokenisation with the tokenizer's own `decode`: shown text always equals the decoded tokens."""

from __future__ import annotations

from collections.abc import Sequence

from helix_mlx.models.text.tokenizer import REPLACEMENT, Tokenizer

CONTEXT = 8
"""Tokens that are decoded again before the new ones. More than a character has bytes (4), so that a window which
begins inside a character is in step again before its end; and enough that what a decoder does to the first of a text
(strips its space, leaves out the space before it) is done to a token that has been shown long ago."""
CLEANED = 6
"""Characters at the end that `clean_up_tokenization_spaces` may still change: "do n" becomes "don't". Never more
than four in all texts of its patterns' characters that were tried."""

LONGEST = 16 * CONTEXT
"""Tokens of the longest window where spaces are cleaned up."""


class IncrementalText:
    """Turns the tokens of an answer into text that may be shown.

    The pieces, joined, are `decode(prompt + answer)` behind as many characters as `decode(prompt)` has, up to the
    first stop text. So the space before an answer's first word is part of it, and a character that the prompt left
    half counts as the prompt's. Special tokens are text as `decode` writes them; ids that no token has are none.

    What later tokens could change is held back: half a character; a run of byte tokens ("<0xE2>"), which decodes to
    replacement characters as a whole if one of its bytes is wrong; and what could be the beginning of a stop text.
    Half a character at the end of the answer is not shown; a replacement character that the model wrote is.

    Each token is decoded with a bounded number of others, whatever the answer's length.

    Args:
        tokenizer: the pair's.
        prompt: the token ids before the answer, of which the last few are read.
        stop: texts that end the answer; none of them is ever shown.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._window, self._run = _context(tokenizer, prompt)
        # How many characters of the window's text have been handed on; the prompt's have, in a manner of speaking.
        self._read = len(tokenizer.decode(self._window))
        self._look = self._run + max(1, self._run // CONTEXT)
        self._held = ""
        self._shown: list[str] = []
        self.stopped = False
        self._finished = False

    @property
    def text(self) -> str:
        """All that has been shown."""
        return "".join(self._shown)

    def push(self, token: int) -> str:
        """Add a token; return the text that can be shown now. Sets `stopped` where a stop text is complete."""
        assert not self.stopped
        piece = self._tokenizer.piece(token)
        if piece is None:
            return ""
        self._window.append(token)
        in_run = self._tokenizer.is_byte(piece)
        self._run = self._run + 1 if in_run else 0
        if in_run and not (self._stop and self._run >= self._look):
            return ""
        # In a run a stop text is looked for after each token, later after each eighth of the run: eight ids a token.
        self._look = self._run + max(1, self._run // CONTEXT)
        text = self._tokenizer.decode(self._window)
        final = self._read if in_run else max(self._read, len(text) - self._unsettled(text))
        shown = self._show(text[self._read : final], text[final:])
        self._read = final
        if not in_run and len(self._window) >= 2 * CONTEXT:
            self._forget(text)
        return shown

    def finish(self) -> str:
        """The text still held back, at the end of the answer."""
        if self.stopped or self._finished:
            return ""
        self._finished = True
        shown = self._show(self._tokenizer.decode_whole(self._window)[self._read :], "")
        rest, self._held = self._held, ""
        self._shown.append(rest)
        return shown + rest

    def _unsettled(self, text: str) -> int:
        """How many characters at the end of a text the next tokens could change, outside a run of byte tokens."""
        if self._tokenizer.cleans:
            return CLEANED
        return int(text.endswith(REPLACEMENT))

    def _forget(self, text: str) -> None:
        """Keep the window's last tokens, whose text ends in the same characters that have not been handed on.

        Cleaning up begins anew with them, which is not the same within a run of quotes: "' ' ' '". A window is kept
        until such a run ends, or is longer than any that means something.
        """
        unread = len(text) - self._read
        kept = self._window[-CONTEXT:]
        end = self._tokenizer.decode(kept)
        alike = unread <= len(end) and (not self._tokenizer.cleans or text.endswith(end[-2 * CLEANED :]))
        if alike or len(self._window) >= LONGEST:
            self._window, self._read = kept, max(0, len(end) - unread)

    def _show(self, new: str, unsettled: str) -> str:
        """Take new text up to a stop text; one that ends in the text that is not settled ends the answer as well.

        The answer ends there, so nothing can change that text any more.
        """
        self._held += new
        seen = self._held + unsettled.removesuffix(REPLACEMENT)
        found = [at for stop in self._stop if (at := seen.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = seen[: min(found)], ""
        else:
            keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
            cut = len(self._held) - keep
            shown, self._held = self._held[:cut], self._held[cut:]
        self._shown.append(shown)
        return shown


def _context(tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[list[int], int]:
    """The last few tokens of a prompt, with the whole of a run of byte tokens at its end; and the run's length."""
    kept: list[int] = []
    run, in_run = 0, True
    for token in reversed(prompt):
        if len(kept) >= CONTEXT and not in_run:
            break
        if (piece := tokenizer.piece(token)) is not None:
            kept.append(token)
            in_run = in_run and tokenizer.is_byte(piece)
            run += in_run
    return kept[::-1], run


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
