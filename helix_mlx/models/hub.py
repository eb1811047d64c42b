"""Turns errors of the Hugging Face hub into helpful messages, in one place for all downloads."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from helix_mlx.errors import ModelError
from helix_mlx.models.third_party import guarded, hush, one_line

_TRANSPORT: Any = HfHubHTTPError.__mro__[1]
"""The error of whichever HTTP library the hub's client uses."""
_UNREACHABLE: tuple[type[Exception], ...] = (
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    ConnectionError,
    TimeoutError,
    HfHubHTTPError,
    _TRANSPORT,
)


@contextmanager
def hub_errors(source: str) -> Iterator[None]:
    """What goes wrong in the body becomes a ModelError that says what to do.

    Args:
        source: the repository that is asked for.
    """
    hush()
    # What is named below has advice of its own; proxies and addresses that are none raise anything.
    with guarded(f"cannot fetch {source}", "check the network and its settings, or name a folder"), _known(source):
        yield


@contextmanager
def _known(source: str) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"{source} is gated: accept its licence on the Hugging Face hub, then run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{source} has no such revision; check --revision") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no repository {source}, or it is private: check the name, or run `hf auth login`"
        ) from error
    except HFValidationError as error:
        raise ModelError(f"{source} is neither a folder nor a repository name: {one_line(error)}") from error
    except _UNREACHABLE as error:
        raise ModelError(
            f"cannot reach the hub for {source}: {one_line(error)}; check the network, or use a local folder"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ModelError(f"the disk is full: {source} was not downloaded; free some space and try again") from error
        raise
