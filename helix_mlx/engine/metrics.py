"""What an engine has done and holds, as counters and gauges that a metrics endpoint can export."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from helix_mlx.errors import renamed


@dataclass
class Counters:
    """What has been done; these only grow."""

    requests: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    preemptions: int = 0
    prefill_tokens: int = 0
    prefix_hit_tokens: int = 0
    draft_prefill_tokens: int = 0
    emitted: int = 0
    drafted: int = 0
    accepted: int = 0
    target_passes: int = 0
    """Decoding passes of the whole batch; one serves every running answer."""
    busy_s: float = 0.0
    """Seconds in which a step ran."""


@dataclass
class Metrics(Counters):
    """An engine at a moment: its counters, and gauges, which tell what is so now.

    `unused_fraction` is the share of held positions, tails included, that no token uses; `tail_bytes` is held beside
    the page pool. `tokens_per_s` is emitted tokens by the seconds in which anything ran.
    """

    running: int = 0
    """Gauge: answers that hold pages."""
    waiting: int = 0
    """Gauge: requests whose turn has not come, or that gave up their pages."""
    pages_total: int = 0
    """Gauge: pages of the pool as it is now."""
    pages_used: int = 0
    """Gauge: pages that running answers hold."""
    pages_cached: int = 0
    """Gauge: pages that nobody holds and the prefix cache keeps."""
    kv_bytes: int = 0
    """Gauge: bytes of the pool as it is now."""
    kv_budget: int = 0
    """Gauge: bytes that it may grow to, with those set aside for recurrent states."""
    tail_bytes: int = 0
    """Gauge: bytes of the tails of running answers."""
    state_bytes: int = 0
    """Gauge: bytes of the recurrent states of running answers."""
    snapshot_bytes: int = 0
    """Gauge: bytes of the recurrent states that the prefix cache keeps."""
    unused_fraction: float = 0.0
    """Gauge: 0 to 1."""

    def __getattr__(self, name: str) -> Any:
        raise renamed("Metrics", name, {"waste": "unused_fraction"})

    @property
    def tokens_per_s(self) -> float:
        """Emitted tokens a second of work."""
        return self.emitted / self.busy_s if self.busy_s else 0.0

    @property
    def acceptance(self) -> float:
        """Drafts kept for each draft proposed."""
        return self.accepted / self.drafted if self.drafted else 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, ready for `json.dumps`."""
        return {**asdict(self), "tokens_per_s": self.tokens_per_s, "acceptance": self.acceptance}


GAUGES = (
    "running", "waiting", "pages_total", "pages_used", "pages_cached", "kv_bytes", "kv_budget", "tail_bytes",
    "state_bytes", "snapshot_bytes", "unused_fraction", "tokens_per_s", "acceptance",
)  # fmt: skip
"""The fields that may fall; all others only grow."""
