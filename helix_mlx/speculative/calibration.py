"""What a cycle costs on this machine: the cost table of a pair, measured once and stored on disk.

Plain Python without MLX: the caller runs the cycles and passes their times in.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from helix_mlx.files import write_beside
from helix_mlx.request import MAX_DRAFT_TOKENS
from helix_mlx.speculative.cost_model import CostTable, CycleKind

FORMAT = 3
"""Of the files; a file of another one is measured anew, as one from when a cycle was another piece of work."""
_LEAST_S, _MOST_S = 1e-7, 1e4
"""Sanity bounds for the time of any part of a cycle, in seconds."""
_READ_SHARE = 1 / 32
"""Assumed cost of a prefill token of the draft, in draft steps, if not measured."""


@dataclass(frozen=True)
class CostTableKey:
    """The conditions that a cost table was measured under; any change means measuring again.

    Args:
        chip: the device's name.
        mlx: its version.
        target, draft: what tells a model of certain shapes and bits; draft "" without one.
        kernels: what the products are done by.
        context: positions up to which it was measured.
        batch: sequences in a cycle.
    """

    chip: str
    mlx: str
    target: str
    draft: str
    kernels: str
    context: int
    batch: int = 1

    @property
    def file_name(self) -> str:
        """The same for equal keys."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


class CostTableStore:
    """Cost tables on disk, one file each. If the folder cannot be written, none are kept.

    Args:
        folder: made when it is first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: CostTableKey) -> CostTable | None:
        """The cost table of a key; None if there is none or its file is invalid."""
        try:
            data = json.loads((self._folder / key.file_name).read_text(encoding="utf-8"))
            if data["format"] != FORMAT or data["key"] != asdict(key):
                return None
            cost_table = data["cost_table"]
            costs = tuple(float(cost) for cost in cost_table["target_s"])
            drafts = [float(cost_table[name]) for name in ("draft_s", "draft_read_s")]
            if len(costs) != MAX_DRAFT_TOKENS + 1 or not all(0 < cost < _MOST_S for cost in costs):
                return None
            return CostTable(costs, *drafts) if all(0 <= cost < _MOST_S for cost in drafts) else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def keep(self, key: CostTableKey, cost_table: CostTable) -> bool:
        """Save a cost table atomically; returns whether it succeeded."""
        data = {"format": FORMAT, "key": asdict(key), "cost_table": asdict(cost_table)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_beside(self._folder / key.file_name, json.dumps(data, indent=1).encode(), mode=0o600)
        except OSError:
            return False
        return True


def cost_table_of(seconds: Mapping[CycleKind, Sequence[float]], reads: Sequence[tuple[int, float]]) -> CostTable | None:
    """The cost table from measured cycles; None if K = 0 or the largest K is missing.

    Args:
        seconds: of cycles by their kind. Those without the model are passes of the target; draft lengths between them
            that were not measured lie on the line between their neighbours.
        reads: tokens and seconds of the draft's passes over known tokens.
    """
    medians = {kind: statistics.median(found) for kind, found in seconds.items() if found}
    if not {(0, False), (MAX_DRAFT_TOKENS, False)} <= medians.keys():
        return None
    target_s: list[float] = []
    for count in range(MAX_DRAFT_TOKENS + 1):
        below = max(known for known, uses_model in medians if not uses_model and known <= count)
        above = min(known for known, uses_model in medians if not uses_model and known >= count)
        share = (count - below) / (above - below) if above > below else 0.0
        cost = (1 - share) * medians[below, False] + share * medians[above, False]
        # More rows are never cheaper; if they seem so, it is noise.
        target_s.append(max(cost, *target_s) if target_s else cost)
    steps = [(cost - target_s[count]) / count for (count, uses_model), cost in medians.items() if uses_model]
    draft_s = max(_LEAST_S, statistics.median(steps)) if steps else 0.0
    long_reads = [(spent - draft_s) / tokens for tokens, spent in reads if tokens >= 16]
    read_s = statistics.median(long_reads) if long_reads else draft_s * _READ_SHARE
    return CostTable(tuple(target_s), draft_s, min(max(read_s, 0.0), draft_s))
