"""What a drafter is: something that proposes tokens, which the target then verifies. Imports no MLX.

There are two kinds. A token drafter proposes on the host, for one sequence, from its known tokens. A model drafter
proposes on the device, for a whole batch, and has keys and values of its own. To add one of either kind, write a class
and a row in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import mlx.core as mx

    from helix_mlx.paging.paged_cache import PagedKV
    from helix_mlx.sampling.filters import Filters
    from helix_mlx.speculative.verification.types import Draft


class Needs(Enum):
    """What a drafter needs from the target."""

    TOKENS = "the tokens of the sequence, on the host"
    DRAFT_MODEL = "a draft model, with its keys and values in the pages"
    HIDDEN_STATES = "the target's last hidden states: a head of it, which has keys and values in the pages, too"


class TokenDrafter(Protocol):
    """Proposes tokens for one sequence; one object per sequence. Wrong drafts only cost time."""

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """Up to `count` token ids likely to follow `tokens`, the whole sequence so far; empty if it has no guess.

        It may be called several times with the same tokens, and must then return the same.
        """
        ...

    def kind(self) -> str:
        """The kind of the last proposal, if kinds differ in acceptance: a key of `DrafterSpec.priors`."""
        ...

    def observe(self, proposed: int, accepted: int) -> None:
        """Called with the number of drafts accepted in the last cycle."""
        ...

    def release(self) -> None:
        """The sequence has ended."""
        ...


class ModelDrafter(Protocol):
    """Proposes tokens for a whole batch. It never sees the target's output and commits nothing."""

    def propose(self, context: DraftContext, count: int) -> Draft:
        """`count` >= 1 tokens per sequence, with the probabilities they were drawn from; does not wait."""
        ...


@dataclass(frozen=True)
class DrafterSpec:
    """A row of the registry.

    Args:
        name: the word for it: `--drafter NAME`.
        needs: what it works from.
        priors: the share of its drafts that is kept where nothing is known yet, by the kind of a proposal.
        make: makes a token drafter for a sequence; None for a model drafter, which comes with the pair.
    """

    name: str
    needs: Needs
    priors: Mapping[str, float] = field(hash=False)
    make: Callable[[], TokenDrafter] | None = None

    def __post_init__(self) -> None:
        assert self.priors
        assert all(0 < prior < 1 for prior in self.priors.values())
        assert (self.make is None) == (self.needs is not Needs.TOKENS)


@dataclass(frozen=True)
class DraftContext:
    """What a model drafter may look at. Nothing of it is changed but the keys and values.

    Args:
        last: [B, W] int32, W >= 2, the tokens at positions n - W + 1 to n.
        positions: [B] int32, n: the last known token's position.
        limit: a bound, known to the host, on n.
        exact: n is `limit` in every sequence.
        filters, seeds, rules: the sequences' settings, as in `Rows`.
        kv: the draft model's keys and values, valid up to position n - W; None where there is no draft model. A head's
            are valid up to n - 1.
        hidden: [B, 1, H], the target's hidden state at position n - 1, where a head is there to read it.
    """

    last: mx.array
    positions: mx.array
    limit: int
    exact: bool
    filters: Filters
    seeds: mx.array
    rules: Sequence[str]
    kv: PagedKV | None
    hidden: mx.array | None = None
