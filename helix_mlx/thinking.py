"""Splits a model's reasoning from its answer, by the marks around the reasoning."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class ThinkMarks:
    """The marks around a model's reasoning, which stands before its answer.

    Args:
        start, end: such as "<think>" and "</think>".
        plain: what stands before an answer without reasoning, where that has a mark of its own.
        opened: what the prompt ends in where it has the start mark already: the mark, and the space behind it.
    """

    start: str
    end: str
    plain: str = ""
    opened: str = ""

    def behind(self, prompt: str) -> ThinkMarks:
        """The marks of an answer to a prompt, whose template may have opened the reasoning."""
        written = prompt.rstrip()
        opened = self.start + prompt[len(written) :] if written.endswith(self.start) else ""
        return replace(self, opened=opened)

    def parts(self, text: str) -> tuple[str | None, str]:
        """What stands between the marks of a text, and what comes behind them; None where the text has no reasoning.

        An answer that ends before its reasoning does is reasoning alone. Marks further on in a text are words of it.
        """
        begun = (self.opened + text).lstrip()
        if self.plain and begun.startswith(self.plain):
            return "", begun.removeprefix(self.plain)
        if not begun.startswith(self.start):
            return None, text
        reasoning, _, answer = begun.removeprefix(self.start).partition(self.end)
        return reasoning, answer

    def whole(self, reasoning: str, answer: str) -> str:
        """The text of reasoning and answer, as the model would have written them."""
        if self.plain and not reasoning:
            return self.plain + answer
        return f"{self.start}{reasoning}{self.end}{answer}"


class ReasoningSplitter:
    """Splits a streaming answer into reasoning (with its marks and the space after it) and answer.

    Args:
        marks: those of the answer; None where the model has none, and every piece is answer.
    """

    def __init__(self, marks: ThinkMarks | None) -> None:
        self._marks = marks
        self._place: Literal["beginning", "reasoning", "gap", "answer"] = "answer"
        if marks is not None:
            self._place = "reasoning" if marks.opened else "beginning"
        self._held = ""  # at the beginning: what may become the start mark; later: what may become the end mark

    @property
    def reasons(self) -> bool:
        """Whether what comes next belongs to the reasoning, as far as that is known."""
        return self._place in ("reasoning", "gap")

    def push(self, text: str) -> list[tuple[str, bool]]:
        """The pieces that can be shown now, each with whether it is reasoning.

        Only what may become the start mark is held back; `finish` gives it.
        """
        pieces: list[tuple[str, bool]] = []
        if self._place == "beginning":
            mark, text = self._begin(text)
            pieces.append((mark, True))
        if self._place == "reasoning":
            shown, text = self._reason(text)
            pieces.append((shown, True))
        if self._place == "gap":
            rest = text.lstrip()
            pieces.append((text[: len(text) - len(rest)], True))
            text = rest
            self._place = "answer" if rest else "gap"
        return [(piece, reasons) for piece, reasons in (*pieces, (text, False)) if piece]

    def finish(self) -> list[tuple[str, bool]]:
        """The text still held back at the end of the answer."""
        held, self._held = self._held if self._place == "beginning" else "", ""
        return [(held, False)] if held else []

    def _begin(self, text: str) -> tuple[str, str]:
        """Wait until it is clear how the answer begins; returns the mark it begins with, if any, and what follows."""
        marks = self._marks
        assert marks is not None
        self._held += text
        begun = self._held.lstrip()
        if any(mark != begun and mark.startswith(begun) for mark in (marks.start, marks.plain)):
            return "", ""
        text, self._held = self._held, ""
        cut = len(text) - len(begun)
        if marks.plain and begun.startswith(marks.plain):
            self._place, cut = "gap", cut + len(marks.plain)
        elif begun.startswith(marks.start):
            self._place, cut = "reasoning", cut + len(marks.start)
        else:
            self._place, cut = "answer", 0
        return text[:cut], text[cut:]

    def _reason(self, text: str) -> tuple[str, str]:
        """What of a text is reasoning, with the end mark, and the rest of it."""
        assert self._marks is not None
        end = self._marks.end
        seen = self._held + text
        at = seen.find(end)
        if at < 0:
            self._held = seen[max(0, len(seen) - len(end) + 1) :]
            return text, ""
        cut = at + len(end) - len(self._held)
        self._place, self._held = "gap", ""
        return text[:cut], text[cut:]
