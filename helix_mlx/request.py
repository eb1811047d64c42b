"""Requests and their results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, TypedDict

from helix_mlx.errors import SettingsError, did_you_mean
from helix_mlx.thinking import ThinkMarks
from helix_mlx.types import Cancel, Message, Progress, Prompt

FinishReason = Literal["stop", "length", "cancelled"]
VERIFICATIONS = ("greedy", "token", "block", "coupled")
MAX_DRAFT_TOKENS = 7
"""Metal's vector attention takes at most 8 query rows: K drafts and the last token."""
MAX_BITS = 1000
"""Bits a number may have: more than any setting needs, and few enough for a float."""
MODEL_SETTINGS = ("temperature", "top_p", "top_k", "min_p")
"""The fields of `SamplingParams` that a model's generation_config.json may set."""
MAX_ANSWERS = 64
"""Maximum answers to one prompt in a single request."""


@dataclass(frozen=True)
class SamplingParams:
    """The sampling settings of one request, with the same names on the command line, in Python and in JSON.

    `verification=None` chooses: greedy at temperature 0, coupled where a seed is given, block otherwise. `stop_tokens`
    end an answer as the model's own end tokens do: ids, or texts of one token each. A whole `SamplingParams` is taken
    as it is; only settings given one by one leave the others to the model's generation_config.json.

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
    stop_tokens: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        _require(
            isinstance(stop, Iterable) and all(isinstance(text, str) and text for text in stop),
            "stop",
            self.stop,
            "one text, or several, each of at least one character",
        )
        object.__setattr__(self, "stop", tuple(stop))
        for name in ("max_tokens", "top_k", "seed"):
            object.__setattr__(self, name, own_number(name, getattr(self, name)))
        for name in ("temperature", "top_p", "min_p"):
            object.__setattr__(self, name, own_number(name, getattr(self, name), real=True))
        ends = (self.stop_tokens,) if isinstance(self.stop_tokens, (str, int)) else self.stop_tokens
        _require(
            isinstance(ends, Iterable) and all(_is_whole(end) or (isinstance(end, str) and end) for end in ends),
            "stop-token",
            self.stop_tokens,
            "one token, or several, each the text of one or its id",
        )
        object.__setattr__(self, "stop_tokens", tuple(ends))
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
                "verification greedy needs temperature 0; leave out --verification, or set --temperature 0"
            )

    @classmethod
    def resolved(
        cls, params: SamplingParams | None, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> SamplingParams:
        """The settings of a call that takes either a whole `SamplingParams` or single settings by name.

        Args:
            params: taken as it is, where it is given.
            settings: fields by name.
            defaults: the model's own, for the fields that `settings` leaves out.

        Raises:
            SettingsError: both are given, a name is unknown, or a value is out of range.
        """
        if params is None:
            known = [field.name for field in fields(cls)]
            for name in settings:
                if name not in known:
                    names = [*known, *_OWN]
                    raise SettingsError(
                        f"there is no setting {name}{did_you_mean(name, names)}; choose from {', '.join(names)}"
                    )
            return cls(**{**(defaults or {}), **settings})
        if settings or not isinstance(params, cls):
            raise SettingsError("give either a SamplingParams or single settings such as temperature=0.7, not both")
        return params

    @property
    def rule(self) -> str:
        """The verification rule this request runs under. At temperature 0 every rule is the greedy one."""
        if self.temperature == 0:
            return "greedy"
        if self.verification is not None:
            return self.verification
        return "block" if self.seed is None else "coupled"


@dataclass(frozen=True)
class Request:
    """What `Engine.submit` takes: a prompt, and how to answer it.

    Args:
        prompt: a raw text, token ids, or the messages of a conversation, `[{"role": "user", "content": ...}, ...]`.
        params: the sampling settings; None takes the model's defaults.
        draft_tokens: K for this request, 0 to 7; None takes the engine's.
        drafter: who drafts, "auto", "model", "ngram" or "none"; None takes the engine's.
        priority: higher goes first, is preempted last; equal ones go in the order of their arrival.
        n: answers to this one prompt. The i-th of them, from 0 on, has the seed `params.seed + i`, where there is one.
        thinking: whether the model reasons before it answers messages, where its chat template has a switch for
            that; None leaves it to the template.
        template_args: further variables of the chat template, by name.

    Raises:
        SettingsError: a value is out of range.
    """

    prompt: Prompt | Sequence[Message]
    params: SamplingParams | None = None
    draft_tokens: int | None = None
    drafter: str | None = None
    priority: int = 0
    n: int = 1
    thinking: bool | None = None
    template_args: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        prompt: Any,
        params: SamplingParams | None,
        settings: Mapping[str, Any],
        defaults: Mapping[str, Any] | None = None,
    ) -> Request:
        """The request of a call: a prompt, and its settings as `Settings` names them.

        Args:
            prompt: as the field.
            params: a whole `SamplingParams`, or None.
            settings: fields of a request and, where `params` is None, of `SamplingParams`.
            defaults: the model's own, for the fields of `SamplingParams` that are given nowhere.

        Raises:
            SettingsError: a name is unknown, or a value is out of range.
        """
        own = {name: settings[name] for name in _OWN if name in settings}
        rest = {name: settings[name] for name in settings if name not in own}
        return cls(prompt, SamplingParams.resolved(params, rest, defaults), **own)

    def __post_init__(self) -> None:
        for name in ("draft_tokens", "priority", "n"):
            object.__setattr__(self, name, own_number(name, getattr(self, name)))
        whole = self.params is None or isinstance(self.params, SamplingParams)
        _require(whole, "params", self.params, "a SamplingParams")
        check_draft_tokens(self.draft_tokens)
        _require(self.drafter is None or isinstance(self.drafter, str), "drafter", self.drafter, "a drafter's name")
        _require(_is_whole(self.priority), "priority", self.priority, "a whole number")
        _require(_is_whole(self.n) and 1 <= self.n <= MAX_ANSWERS, "n", self.n, f"between 1 and {MAX_ANSWERS}")
        _require(
            self.thinking is None or isinstance(self.thinking, bool), "thinking", self.thinking, "True, False, or None"
        )
        named = self.template_args is None or (
            isinstance(self.template_args, Mapping) and all(_is_name(name) for name in self.template_args)
        )
        _require(named, "template_args", self.template_args, "variables of the chat template by name")

    @property
    def needs_template(self) -> bool:
        """Whether it sets something that only a chat template can read."""
        return self.thinking is not None or bool(self.template_args)


_OWN = tuple(field.name for field in fields(Request) if field.name not in ("prompt", "params", "n"))
"""What a call sets of its request by name; several answers come of `submit` alone."""


class Settings(TypedDict, total=False):
    """Keyword settings that every generating method takes: fields of `SamplingParams` and `Request`."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int | None
    stop: str | Iterable[str]
    verification: str | None
    stop_tokens: int | str | Iterable[int | str]
    draft_tokens: int | None
    drafter: str | None
    priority: int
    thinking: bool | None
    template_args: Mapping[str, Any] | None


class StreamSettings(Settings, total=False):
    """The same for an answer that is read piece by piece.

    `cancel` is asked while it is waited for, some twenty times a second and before every chunk; True ends the answer
    with finish reason "cancelled". `progress` is told of prefilled tokens, done and in all. Both are called in the
    thread that reads.
    """

    cancel: Cancel | None
    progress: Progress | None


def check_draft_tokens(draft_tokens: int | None) -> int | None:
    """A draft length, of whatever library its number is; None stands for "auto".

    Raises:
        SettingsError: it is out of range.
    """
    found = own_number("draft-tokens", draft_tokens)
    if found is not None and not (_is_whole(found) and 0 <= found <= MAX_DRAFT_TOKENS):
        raise SettingsError(f"draft-tokens is {draft_tokens}, but must be between 0 (off) and {MAX_DRAFT_TOKENS}")
    return None if found is None else int(found)


def own_number(name: str, value: Any, real: bool = False) -> Any:
    """A number of numpy's, say, as Python's own, a float where it may be `real`; what is no number stays what it is.

    Raises:
        SettingsError: nobody could write it down.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    if isinstance(value, Integral):
        value = int(value)
        if value.bit_length() > MAX_BITS:
            raise SettingsError(f"{name.replace('_', '-')} is {MAX_BITS} bits long or longer; give a smaller number")
    return float(value) if real or not isinstance(value, int) else value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise SettingsError(f"{name} is {value}, but must be {wanted}")


@dataclass
class Stats:
    """Statistics of one answer, counted by the engine. Seconds are wall-clock seconds.

    `accepted_by_position[i]` counts the cycles that kept at least i + 1 drafts. `target_passes` counts
    forward passes of decoding (the prefill is not one); `host_syncs` the times the host waited for a cycle.
    `prefill_tokens` is what the target read of the prompt, `prefix_hit_tokens` what it found in the prefix cache;
    `preemptions` the times the sequence gave up its pages to older ones and came back by reading its tokens again,
    which `prefill_tokens` and `prefix_hit_tokens` then count again. `prefill_s` is the time from the first pass over
    the prompt to the last. `time_to_first_token_s` begins with the submission, `decode_s` with the first token.
    `cycles_by_draft_length[K]` counts cycles of K drafts, `cycles_by_drafter` those of each drafter; `draft_choice`
    tells, where the engine chooses, why it chose what it chose last.
    """

    emitted: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_by_position: list[int] = field(default_factory=list)
    cycles_by_draft_length: list[int] = field(default_factory=list)
    cycles_by_drafter: dict[str, int] = field(default_factory=dict)
    draft_choice: str = ""
    target_passes: int = 0
    draft_passes: int = 0
    host_syncs: int = 0
    prefill_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    prefill_s: float = 0.0
    time_to_first_token_s: float = 0.0
    decode_s: float = 0.0
    tokens_per_s: float = 0.0

    def note_cycle(self, drafter: str, count: int) -> None:
        """Count a cycle of K drafts by a drafter."""
        self.cycles_by_draft_length += [0] * (count + 1 - len(self.cycles_by_draft_length))
        self.cycles_by_draft_length[count] += 1
        if count:
            self.cycles_by_drafter[drafter] = self.cycles_by_drafter.get(drafter, 0) + 1

    @property
    def draft_share(self) -> float:
        """The share of emitted tokens that came from drafts, 0 to 1."""
        return self.accepted / self.emitted if self.emitted else 0.0

    @property
    def tokens_per_pass(self) -> float:
        """Tokens per target pass; the first token belongs to the prefill and is not counted."""
        return (self.emitted - 1) / self.target_passes if self.target_passes else 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return asdict(self)


@dataclass(frozen=True)
class Chunk:
    """A piece of a streamed answer; only complete characters.

    `token` is None where only held-back text is shown, as at the end. `from_draft` tells a token that the
    draft proposed and the target kept. `reasoning` tells what the model writes before its answer, its marks included.
    `finish_reason`, `stats` and `message` come with the last chunk: `message` is the whole answer, to be appended to
    the messages of a conversation. `index` tells which of a request's n answers it belongs to.
    """

    text: str
    token: int | None = None
    from_draft: bool = False
    finish_reason: FinishReason | None = None
    stats: Stats | None = None
    index: int = 0
    reasoning: bool = False
    message: Message | None = None


@dataclass(frozen=True)
class Completion:
    """A whole answer. `tokens` includes the token that ended it, where one did; `text` ends before it.

    `text` is everything that was written; `reasoning` and `content` are its parts. `marks` are what tells them apart,
    None where the model knows no marks.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    stats: Stats
    settings: dict[str, Any] = field(default_factory=dict)
    marks: ThinkMarks | None = None

    @property
    def reasoning(self) -> str | None:
        """What the model wrote before its answer, without the marks around it; None where there was none."""
        reasoning, _ = self._parts()
        return None if reasoning is None else reasoning.strip()

    @property
    def content(self) -> str:
        """The answer without its reasoning; empty where it ended before the reasoning did."""
        reasoning, content = self._parts()
        return content if reasoning is None else content.lstrip()

    @property
    def message(self) -> dict[str, str]:
        """The answer as a message, to be appended to the messages of a conversation; it holds all that was written."""
        reasoning, content = self._parts()
        message = {"role": "assistant", "content": content}
        return message if reasoning is None else {**message, "reasoning_content": reasoning}

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        found = asdict(self)
        del found["marks"]
        return {"text": found.pop("text"), "reasoning": self.reasoning, "content": self.content, **found}

    def _parts(self) -> tuple[str | None, str]:
        return (None, self.text) if self.marks is None else self.marks.parts(self.text)
