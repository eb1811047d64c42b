"""An answer's statistics as text: the status line, and the output of `/stats`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helix_mlx.cli.console.terminal import human_bytes
from helix_mlx.request import Chunk, Stats

if TYPE_CHECKING:
    from helix_mlx.engine.memory import MemoryReport


def status_line(last: Chunk) -> str:
    """The status line under an answer, from its last chunk: speed, time to first token, drafts."""
    stats = last.stats
    assert stats is not None
    parts = [_plural(stats.emitted, "token"), f"first token {stats.time_to_first_token_s:.2f} s"]
    if stats.tokens_per_s:
        parts.insert(1, f"{stats.tokens_per_s:.0f} tokens/s")
    if stats.drafted:
        parts.append(f"{stats.draft_share:.0%} from drafts")
        parts.append(f"{stats.tokens_per_pass:.1f} tokens/pass")
    if last.finish_reason == "length":
        parts.append("cut off by max-tokens or the context")
    if last.finish_reason == "cancelled":
        parts.append("stopped")
    return " · ".join(parts)


def memory_line(memory: MemoryReport) -> str:
    """The context length, and the KV memory in use and at most."""
    context = f"context {memory.context:,}"
    if memory.context < memory.context_made_for:
        context += f" of the model's {memory.context_made_for:,}"
    taken = f"KV memory {human_bytes(memory.bytes)}"
    return f"{context} · {taken}" + (f", up to {human_bytes(memory.budget)}" if memory.bytes < memory.budget else "")


def stats_lines(stats: Stats) -> list[str]:
    """All statistics of an answer."""
    return [
        f"generated {_plural(stats.emitted, 'token')}, {stats.accepted} from drafts ({stats.draft_share:.0%})",
        f"drafted {_plural(stats.drafted, 'token')}, accepted by position: {_positions(stats)}",
        f"draft lengths: {_lengths(stats)}" + (f"; last choice: {stats.draft_choice}" if stats.draft_choice else ""),
        f"target passes {stats.target_passes} ({stats.tokens_per_pass:.2f} tokens each), "
        f"draft passes {stats.draft_passes}, waits for the device {stats.host_syncs}",
        f"prefill {_plural(stats.prefill_tokens, 'token')} in {stats.prefill_s:.2f} s, "
        f"{stats.prefix_hit_tokens} from the prefix cache, first token after {stats.time_to_first_token_s:.2f} s",
        f"decoding {stats.decode_s:.2f} s, {stats.tokens_per_s:.1f} tokens/s",
    ]


def _positions(stats: Stats) -> str:
    return " ".join(str(count) for count in stats.accepted_by_position) or "none"


def _lengths(stats: Stats) -> str:
    """How often each draft length and each drafter ran, such as "0 (12 times), 4 (30 times); model 30 times"."""
    lengths = ", ".join(
        f"{length} ({_plural(cycles, 'time')})" for length, cycles in enumerate(stats.cycles_by_draft_length) if cycles
    )
    drafters = ", ".join(f"{name} {_plural(cycles, 'time')}" for name, cycles in stats.cycles_by_drafter.items())
    return "; ".join(part for part in (lengths, drafters) if part) or "none"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
