"""What a caller asks for and what comes back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from helix_mlx.errors import SettingsError

FinishReason = Literal["stop", "length", "cancelled"]
VERIFICATIONS = ("greedy", "token", "block", "coupled")
DRAFTERS = ("model", "none")
MAX_DRAFT_TOKENS = 7
"""Metal's vector attention takes at most 8 query rows: K drafts and the last token."""


@dataclass(frozen=True)
class SamplingParams:
    """The settings of one request; the same words on the command line, in Python and in JSON.

    `verification=None` chooses: greedy at temperature 0, coupled where a seed is given, block otherwise.

    Raises:
        SettingsError: a value is out of range, or two contradict each other.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    verification: str | None = None

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        _require(
            isinstance(stop, Iterable) and all(isinstance(text, str) and text for text in stop),
            "stop",
            self.stop,
            "one text, or several, each of at least one character",
        )
        object.__setattr__(self, "stop", tuple(stop))
        whole, number = _is_whole, _is_number
        _require(whole(self.max_tokens) and self.max_tokens >= 1, "max-tokens", self.max_tokens, "at least 1")
        _require(
            number(self.temperature) and 0 <= self.temperature < math.inf, "temperature", self.temperature, "0 or more"
        )
        _require(number(self.top_p) and 0 < self.top_p <= 1, "top-p", self.top_p, "above 0 and at most 1 (1 is off)")
        _require(whole(self.top_k) and self.top_k >= 0, "top-k", self.top_k, "0 (off) or more")
        _require(number(self.min_p) and 0 <= self.min_p <= 1, "min-p", self.min_p, "between 0 (off) and 1")
        seeded = self.seed is None or (whole(self.seed) and 0 <= self.seed < 2**64)
        _require(seeded, "seed", self.seed, "between 0 and 2^64 - 1")
        known = self.verification is None or self.verification in VERIFICATIONS
        _require(known, "verification", self.verification, "one of " + ", ".join(VERIFICATIONS))
        if self.verification == "greedy" and self.temperature > 0:
            raise SettingsError(
                "verification greedy needs temperature 0; leave --verification out, or set --temperature 0"
            )

    @classmethod
    def resolved(cls, params: SamplingParams | None, settings: dict[str, Any]) -> SamplingParams:
        """The settings of a call that takes either a whole `SamplingParams` or single settings by name.

        Raises:
            SettingsError: both are given, a name is unknown, or a value is out of range.
        """
        if params is None:
            known = [field.name for field in fields(cls)]
            for name in settings:
                _require_known(name, known)
            return cls(**settings)
        if settings or not isinstance(params, cls):
            raise SettingsError("give either one SamplingParams or single settings such as temperature=0.7")
        return params

    @property
    def rule(self) -> str:
        """The verification rule this request runs under. At temperature 0 every rule is the greedy one."""
        if self.temperature == 0:
            return "greedy"
        if self.verification is not None:
            return self.verification
        return "block" if self.seed is None else "coupled"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require_known(name: str, known: list[str]) -> None:
    if name not in known:
        raise SettingsError(f"there is no setting {name}; there are {', '.join(known)}")


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise SettingsError(f"{name} is {value}, but has to be {wanted}")


@dataclass
class Stats:
    """What one answer cost, counted by the engine. Seconds are wall-clock seconds.

    `accepted_by_position[i]` counts the cycles that kept at least i + 1 drafts. `target_passes` counts
    forward passes of decoding (the prefill is not one); `host_syncs` the times the host waited for a cycle.
    `prefill_tokens` is what the target read of the prompt, less than all of it where pages held the rest;
    `prefill_s` the time of reading all but the last of them. `decode_s` begins with the first token and leaves out
    the time in which the reader of a stream held a chunk.
    """

    emitted: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_by_position: list[int] = field(default_factory=list)
    target_passes: int = 0
    draft_passes: int = 0
    host_syncs: int = 0
    prefill_tokens: int = 0
    prefill_s: float = 0.0
    time_to_first_token_s: float = 0.0
    decode_s: float = 0.0
    tokens_per_s: float = 0.0

    @property
    def draft_share(self) -> float:
        """The share of emitted tokens that came from drafts, 0 to 1."""
        return self.accepted / self.emitted if self.emitted else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens a target pass; the first token belongs to the prefill and is left out."""
        return (self.emitted - 1) / self.target_passes if self.target_passes else 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed answer: whole characters only.

    `token` is None where only held-back text is shown, as at the end. `from_draft` tells a token that the
    draft proposed and the target kept. `finish_reason` and `stats` come with the last chunk.
    """

    text: str
    token: int | None = None
    from_draft: bool = False
    finish_reason: FinishReason | None = None
    stats: Stats | None = None


@dataclass(frozen=True)
class Completion:
    """A whole answer. `tokens` includes the token that ended it, where one did; `text` ends before it."""

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    stats: Stats
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return asdict(self)
