"""The border to others' code."""

from __future__ import annotations

import logging
import warnings

import pytest

from helix_mlx.errors import ModelError, PairError, PromptError
from helix_mlx.models.hub import hub_errors
from helix_mlx.models.third_party import guarded, hush, one_line


class Panic(BaseException):
    """As Rust's."""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("by\nzero"), RecursionError(), TypeError(5), SystemExit(1), Panic()]
)
def test_whatever_is_raised_is_one_line(error: BaseException) -> None:
    with (
        pytest.raises(PromptError, match=r"^cannot read this: .+; mend it$") as caught,
        guarded("cannot read this", "mend it", PromptError),
    ):
        raise error
    assert "\n" not in str(caught.value)


def test_what_is_an_error_of_ours_or_no_error_passes() -> None:
    with pytest.raises(PairError, match=r"^ours$"), guarded("cannot", "mend it"):
        raise PairError("ours")
    with pytest.raises(KeyboardInterrupt), guarded("cannot", "mend it"):
        raise KeyboardInterrupt


def test_a_line_that_announces_another_is_told_with_it() -> None:
    assert one_line(ValueError("Validation error for field 'a':\n    TypeError: wrong.\nmore")) == (
        "Validation error for field 'a': TypeError: wrong"
    )
    assert one_line(ValueError("\n\n")) == "ValueError"


@pytest.mark.parametrize(
    "error", [ImportError("no socks"), ValueError("unknown scheme for proxy"), PermissionError(13, "denied", "cache")]
)
def test_trouble_on_the_way_to_the_hub_is_told_whatever_it_is(error: Exception) -> None:
    with pytest.raises(ModelError, match=r"^cannot fetch org/model: .*; check the network"), hub_errors("org/model"):
        raise error


def test_warnings_of_the_libraries_are_off_unless_someone_asked_for_more() -> None:
    logger = logging.getLogger("transformers")
    before = logger.level
    try:
        for level, after in ((logging.WARNING, logging.ERROR), (logging.INFO, logging.INFO)):
            logger.setLevel(level)
            hush()
            assert logger.level == after
    finally:
        logger.setLevel(before)


def test_python_s_warnings_of_the_libraries_are_off_behind_what_anyone_asked_for() -> None:
    def warn() -> None:
        warnings.warn_explicit("no room", UserWarning, "file_download.py", 1, "huggingface_hub.file_download")

    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        hush()
        warn()
        assert shown == []
        warnings.simplefilter("always")
        warn()
        assert len(shown) == 1
