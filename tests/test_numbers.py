"""Numbers of every kind and size in settings: each is taken for what it is, or refused in one line."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from helix_mlx.config import EngineConfig, parse_bytes
from helix_mlx.errors import SettingsError
from helix_mlx.request import Request, SamplingParams, check_draft_tokens

HUGE = pytest.param(10**5000, id="huge")
WHOLE = [(SamplingParams, name) for name in ("max_tokens", "top_k", "seed")]
REAL = [(SamplingParams, name) for name in ("temperature", "top_p", "min_p")]
OF_THE_ENGINE = [
    (EngineConfig, name)
    for name in (
        "page_size", "kv_memory", "max_context", "draft_tokens", "lookahead", "prefill_chunk", "max_rows", "cpu_threads"
    )
]  # fmt: skip
ALL = [*WHOLE, *REAL, *OF_THE_ENGINE]


def made(home: type, name: str, value: Any) -> Any:
    """The value that a setting has, once it was given this one."""
    return getattr(home(**{name: value}), name)


@pytest.mark.parametrize(("home", "name"), ALL)
@pytest.mark.parametrize("value", [math.nan, -math.inf, -1, -1.5, "", "GB", "7", True, [1], HUGE])
def test_what_is_no_such_number_is_refused_in_one_line(home: type, name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as error:
        made(home, name, value)
    assert str(error.value).startswith(name.replace("_", "-") + " is ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(("home", "name"), ALL)
@pytest.mark.parametrize("value", [2**31, 2**63, 10**30, 1e300, math.inf])
def test_a_number_beyond_all_bounds_is_refused_or_kept_as_it_is(home: type, name: str, value: Any) -> None:
    try:
        found = made(home, name, value)
    except SettingsError:
        return
    assert found == pytest.approx(value, rel=1e-12)
    assert math.isfinite(found)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
@pytest.mark.parametrize(("home", "name"), ALL)
def test_numpys_whole_numbers_are_numbers(home: type, name: str, kind: Any) -> None:
    value = kind(16 if name in ("max_rows", "max_context") else 1)
    found = made(home, name, value)
    assert found == value
    assert type(found) in (int, float)


def test_what_was_given_can_be_written_as_json() -> None:
    params = SamplingParams(max_tokens=np.int64(3), temperature=np.float32(0.5), top_p=np.float64(0.25))
    assert json.loads(json.dumps(asdict(params)))["temperature"] == 0.5
    request = Request("a", priority=np.int8(-3), n=np.int64(2), draft_tokens=np.int64(4))
    assert [type(number) for number in (request.priority, request.n, request.draft_tokens)] == [int, int, int]
    assert type(check_draft_tokens(np.int64(4))) is int


@pytest.mark.parametrize("name", ["priority", "n", "draft_tokens"])
@pytest.mark.parametrize("value", [1.5, math.nan, math.inf, "", "7", True, HUGE])
def test_a_request_is_of_whole_numbers(name: str, value: Any) -> None:
    with pytest.raises(SettingsError):
        Request("a", **{name: value})


@pytest.mark.parametrize("name", ["page_size", "prefill_chunk", "max_rows"])
def test_none_is_no_number_where_there_is_a_default(name: str) -> None:
    with pytest.raises(SettingsError, match="is None, but must be a whole number"):
        made(EngineConfig, name, None)


@pytest.mark.parametrize(
    ("text", "count"),
    [("2GB", 2 * 10**9), (" 1.5 GiB ", 3 * 2**29), ("1_000", 1000), ("3tb", 3 * 10**12), ("1TiB", 2**40), ("7", 7)],
)
def test_bytes(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", " ", "GB", "inf", "nan", "-inf", "0x10", "2 GB of it", "1e999", "½GB"])
def test_no_bytes(text: str) -> None:
    with pytest.raises(SettingsError, match="kv-memory is "):
        parse_bytes(text)
