"""The boundary to third-party code: its exceptions over a user's files become one line, its warnings are silenced."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from helix_mlx.errors import HelixError, ModelError

_CHATTY = ("transformers", "huggingface_hub")


@contextmanager
def guarded(what: str, advice: str, kind: type[HelixError] = ModelError) -> Iterator[None]:
    """Turn whatever the body raises into a HelixError; a HelixError passes unchanged.

    For the places, and only those, where others' code reads a user's files or settings: model classes of mlx-lm,
    tokenizers of transformers, chat templates, the hub's client. Which exceptions they raise over a wrong value is
    nowhere written and changes from version to version.

    Args:
        what: begins the message: what cannot be done, to which file.
        advice: ends it: what to do.
        kind: the error to raise.
    """
    try:
        yield
    except (HelixError, KeyboardInterrupt, GeneratorExit):
        raise
    # No Exception, either: a panic of Rust in a tokenizer, and a module of mlx-lm that misses a package and exits.
    except BaseException as error:
        raise kind(f"{what}: {one_line(error)}; {advice}") from error


def importing(library: str) -> AbstractContextManager[None]:
    """For the import of a library that reads the environment as it is imported.

    Raises:
        ModelError: it cannot be imported.
    """
    return guarded(f"cannot import {library}", "mend its settings in the environment (HF_*), or install it again")


def one_line(error: BaseException) -> str:
    """What an error says, for messages that have to fit in one line: its first, and what a first that ends in a colon
    announces.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = lines[0]
    if told.endswith(":") and len(lines) > 1:
        told = f"{told} {lines[1]}"
    return told.rstrip(".:")


def hush() -> None:
    """Silence the libraries' warnings: users cannot act on them, and real problems are raised.

    A level that someone has set, in Python or in the environment, stays. Called before a library is used: importing
    one sets its level.
    """
    for name in _CHATTY:
        logger = logging.getLogger(name)
        if logger.level == logging.WARNING:
            logger.setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module=name, append=True)  # unless the user has set a level
