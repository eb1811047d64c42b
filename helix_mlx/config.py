"""The engine's configuration: frozen, checked, and resolved once. Nothing here reads the environment."""

from __future__ import annotations

from dataclasses import dataclass, fields

from helix_mlx.errors import SettingsError
from helix_mlx.request import check_draft_tokens, own_number

CPU_KERNELS = ("auto", "on", "off")
MAX_CPU_THREADS = 256
DEFAULT_SEQUENCES = 16
"""Default number of concurrent requests."""
_WHOLE = (
    "page_size", "kv_memory", "max_context", "draft_tokens", "lookahead", "prefill_chunk", "max_sequences", "max_rows",
    "cpu_threads",
)  # fmt: skip
_UNITS = {"": 1, "b": 1, "k": 10**3, "kb": 10**3, "m": 10**6, "mb": 10**6, "g": 10**9, "gb": 10**9}
_UNITS |= {"t": 10**12, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True)
class EngineConfig:
    """How an engine runs a pair: the settings that do not change between requests.

    Args:
        page_size: positions in one page of KV memory.
        kv_memory: most bytes for the page pool, which begins with one context and grows; None is a share of the
            device's recommended working set.
        max_context: most positions of one sequence, prompt and answer; None takes the model's own limit, or what
            the memory holds.
        draft_tokens: K, the drafts a cycle; 0 is plain decoding; None chooses what pays, cycle by cycle.
        drafter: "model"; "ngram", which looks tokens up in the sequence itself and needs no draft model; "none"; or
            "auto", which chooses between them where `draft_tokens` is None too, else takes the model if there is one.
        calibrate: whether `load` measures what a cycle costs where that is not known yet, in a second or two; without
            it the engine begins with an estimate, and learns.
        lookahead: 1 reads a cycle's tokens after the next one is enqueued; 0 reads them at once; None does the first
            where nobody drafts, and the second where somebody does, which is what measures faster.
        prefill_chunk: prompt tokens that are read between two cycles at most, so that a long prompt delays the
            running answers by no more.
        max_sequences: answers that run at once; more wait for their turn. None takes 16, or `max_rows` where that
            is less.
        max_rows: rows of one decoding pass of the target, all sequences together; where they are many, each drafts
            less.
        prefix_cache: whether pages that nobody holds any more are kept for prompts that begin alike.
        generation_config: whether the target's generation_config.json gives the settings that a request leaves out,
            and further end tokens.
        cpu_kernels: whether models on a CPU use our own kernels: "auto" where they can be had, "on" or an error, "off".
        cpu_threads: threads for those kernels; None takes the cores that the process may use.

    Raises:
        SettingsError: a value is out of range.
    """

    page_size: int = 16
    kv_memory: int | None = None
    max_context: int | None = None
    draft_tokens: int | None = None
    drafter: str = "auto"
    calibrate: bool = True
    lookahead: int | None = None
    prefill_chunk: int = 512
    max_sequences: int | None = None
    max_rows: int = 16
    prefix_cache: bool = True
    generation_config: bool = True
    cpu_kernels: str = "auto"
    cpu_threads: int | None = None

    def __post_init__(self) -> None:
        open_ones = {field.name for field in fields(self) if field.default is None}
        for name in _WHOLE:
            value = own_number(name, getattr(self, name))
            if (value is not None or name not in open_ones) and (not isinstance(value, int) or isinstance(value, bool)):
                raise SettingsError(f"{name.replace('_', '-')} is {value!r}, but must be a whole number")
            object.__setattr__(self, name, value)
        if not 1 <= self.page_size <= 1024:
            raise SettingsError(f"page-size is {self.page_size}, but must be between 1 and 1024 (16 is the default)")
        if self.kv_memory is not None and self.kv_memory < 1:
            raise SettingsError(f"kv-memory is {self.kv_memory}, but must be a number of bytes such as 2GB")
        if self.max_context is not None and self.max_context < 2:
            raise SettingsError(f"max-context is {self.max_context}, but must be at least 2")
        check_draft_tokens(self.draft_tokens)
        if not isinstance(self.drafter, str):
            raise SettingsError(f"drafter is {self.drafter!r}, but must be a drafter's name such as ngram")
        if self.lookahead not in (None, 0, 1):
            raise SettingsError(f"lookahead is {self.lookahead}, but must be 0 or 1")
        if self.prefill_chunk < 1:
            raise SettingsError(f"prefill-chunk is {self.prefill_chunk}, but must be at least 1")
        if self.max_sequences is not None and self.max_sequences < 1:
            raise SettingsError(f"max-sequences is {self.max_sequences}, but must be at least 1")
        if self.max_rows < 1:
            raise SettingsError(f"max-rows is {self.max_rows}, but must be at least 1")
        if self.max_sequences is not None and self.max_rows < self.max_sequences:
            raise SettingsError(
                f"max-rows is {self.max_rows}, but each of {self.max_sequences} sequences needs a row: "
                "raise it, or lower --max-sequences"
            )
        if self.cpu_kernels not in CPU_KERNELS:
            raise SettingsError(f"cpu-kernels is {self.cpu_kernels}, but must be one of {', '.join(CPU_KERNELS)}")
        if self.cpu_threads is not None and not 1 <= self.cpu_threads <= MAX_CPU_THREADS:
            raise SettingsError(f"cpu-threads is {self.cpu_threads}, but must be between 1 and {MAX_CPU_THREADS}")


def parse_bytes(text: str) -> int:
    """A number of bytes from "512MB", "2GiB" or "1000000".

    Raises:
        SettingsError: the text is no such number.
    """
    digits = text.strip().rstrip("bBkKmMgGtTiI").strip()
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        return int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        raise SettingsError(f"kv-memory is {text!r}, but must be a number of bytes such as 512MB or 2GB") from None
