"""Checks of text that comes from outside."""

from __future__ import annotations

from helix_mlx.errors import PromptError


def checked_text(text: str) -> str:
    """The same text without a leading byte order mark, which some editors and shells add.

    Raises:
        PromptError: it holds bytes that were no UTF-8, which Python hands on as lone surrogates.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise not_utf8() from None
    return text.removeprefix("\ufeff")


def not_utf8() -> PromptError:
    """The error for input that is not UTF-8."""
    return PromptError("the input is not valid UTF-8; convert it first")
