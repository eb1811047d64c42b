"""Errors that a user can cause. Each message says what is wrong and what to do about it.

The command line turns a `HelixError` into one line and exit code 2. Our own mistakes are `assert`s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class HelixError(Exception):
    """Base class of every error that a user can cause and fix."""


class SettingsError(HelixError):
    """A setting is out of range or contradicts another."""


class ModelError(HelixError):
    """A model is missing, unreadable, unsupported, or unsafe to load."""


class LogitsError(HelixError):
    """A model's logits are NaN, so that no token can be chosen."""


class PairError(HelixError):
    """A draft and a target do not belong together."""


class PromptError(HelixError):
    """A prompt is empty or does not fit the context."""


class MemoryBudgetError(HelixError):
    """The KV memory is too small for what was asked."""


class ClosedError(HelixError):
    """The engine has been closed."""


def renamed(owner: str, name: str, names: Mapping[str, str]) -> AttributeError:
    """The error for a missing attribute; if it was renamed, the message gives the new name.

    Args:
        owner: the name of the class.
        name: of the attribute.
        names: the old names, and the new ones.
    """
    if name in names:
        return AttributeError(f"{owner}.{name} is now called {names[name]}")
    return AttributeError(f"{owner!r} object has no attribute {name!r}")


def check_arguments(function: str, given: Iterable[str], names: Mapping[str, str]) -> None:
    """Refuse keyword arguments that a function does not have.

    Args:
        function: its name.
        given: the names of the arguments.
        names: the old names of arguments that were renamed, and the new ones.

    Raises:
        TypeError: there are any; if one was renamed, the message gives the new name.
    """
    for name in given:
        if name in names:
            raise TypeError(f"{function}({name}=) is now called {names[name]}")
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown word: the most similar known one, or nothing."""
    by_small = {each.lower(): each for each in known}
    found = get_close_matches(word.lower(), by_small, n=1)
    return f" (did you mean {by_small[found[0]]}?)" if found else ""
