"""What can go wrong by the user's hand. Each message says what is wrong and what to do about it.

The command line turns a `HelixError` into one line and exit code 2. Mistakes of our own are `assert`s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class HelixError(Exception):
    """Base of every error that a user can cause and mend."""


class SettingsError(HelixError):
    """A setting is out of range or contradicts another."""


class ModelError(HelixError):
    """A model is missing, unreadable, unsupported, or unsafe to load."""


class LogitsError(HelixError):
    """A model's logits are no numbers, so that nothing can be chosen by them."""


class PairError(HelixError):
    """A draft and a target do not belong together."""


class PromptError(HelixError):
    """A prompt is empty or does not fit the context."""


class MemoryBudgetError(HelixError):
    """The KV memory is too small for what was asked."""


class ClosedError(HelixError):
    """The engine has been closed."""


def renamed(owner: str, name: str, names: Mapping[str, str]) -> AttributeError:
    """The error for an attribute that is not there: where it has another name now, it says so.

    Args:
        owner: the name of the class.
        name: of the attribute.
        names: the old names, and the new ones.
    """
    if name in names:
        return AttributeError(f"{owner}.{name} is now called {names[name]}")
    return AttributeError(f"{owner!r} object has no attribute {name!r}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What to say behind an unknown word: the known one that it is most like, or nothing where it is like none."""
    by_small = {each.lower(): each for each in known}
    found = get_close_matches(word.lower(), by_small, n=1)
    return f" (did you mean {by_small[found[0]]}?)" if found else ""
