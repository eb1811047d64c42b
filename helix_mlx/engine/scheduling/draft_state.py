"""What a sequence's drafts are made by: who may draft for it, who does next, and what has been learnt of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from helix_mlx.speculative.acceptance import Acceptance
from helix_mlx.speculative.drafter import DrafterSpec, Needs, TokenDrafter

FIRST_DRAFT_TOKENS = 4
"""K that a sequence is expected to have before its first choice, for which pages are kept free."""
NO_LIMIT = 2**31
"""Positions of a draft model that was made for any number of them."""


@dataclass(eq=False)
class DraftState:
    """The drafts of one sequence.

    Args:
        draft_tokens: K of every cycle; None where the engine chooses.
        drafter: the word that the request was given, a drafter's name or "auto".
        drafters: those that may draft, by name.
        token_drafters: the objects of those among them that propose on the host.
        max_context: positions that the draft model was made for; past them it is not asked.
        next_drafter, next_draft_tokens: who drafts in the next cycle, and how many.
        only_model_user: no other sequence of the next cycle asks the draft model, which then reads a few tokens that
            it missed in that very cycle.
        estimates: how many drafts are kept, by their kind.
        max_drafts: how many each drafter has for the next cycle.
    """

    draft_tokens: int | None = 0
    drafter: str = "none"
    drafters: Mapping[str, DrafterSpec] = field(default_factory=dict)
    token_drafters: dict[str, TokenDrafter] = field(default_factory=dict)
    max_context: int = NO_LIMIT
    next_drafter: str = "none"
    next_draft_tokens: int = 0
    only_model_user: bool = False
    estimates: dict[str, Acceptance] = field(default_factory=dict)
    max_drafts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, drafter: str, drafters: Mapping[str, DrafterSpec], draft_tokens: int | None) -> DraftState:
        """The state of a sequence at its start, with token drafters of its own.

        Args:
            drafter: the word that the request was given.
            drafters: those that may draft; the first of them is expected to be the next.
            draft_tokens: K of every cycle; None where the engine chooses.
        """
        return cls(
            draft_tokens,
            drafter,
            drafters,
            {name: spec.make() for name, spec in drafters.items() if spec.make is not None},
            next_drafter=next(iter(drafters), "none"),
            next_draft_tokens=FIRST_DRAFT_TOKENS if draft_tokens is None else draft_tokens,
        )

    @property
    def is_adaptive(self) -> bool:
        """Whether the engine chooses the drafter and K."""
        return self.draft_tokens is None

    @property
    def can_use_model(self) -> bool:
        """Whether a draft model is ever asked."""
        return self.draft_tokens != 0 and any(map(self.needs_model, self.drafters))

    @property
    def uses_model(self) -> bool:
        """Whether the next drafter is the draft model, or a head."""
        return self.needs_model(self.next_drafter)

    @property
    def next_token_drafter(self) -> TokenDrafter | None:
        """The next drafter, where it proposes on the host."""
        return self.token_drafters.get(self.next_drafter)

    def set_next(self, drafter: str, draft_tokens: int) -> None:
        """Let a drafter, by its name, draft so many tokens in the next cycle."""
        self.next_drafter, self.next_draft_tokens = drafter, draft_tokens

    def needs_model(self, drafter: str) -> bool:
        """Whether a drafter, by its name, is the draft model, or a head in its place."""
        return drafter in self.drafters and self.drafters[drafter].needs is not Needs.TOKENS

    def needs_hidden(self, drafter: str) -> bool:
        """Whether a drafter, by its name, is a head that reads the target's hidden states."""
        return drafter in self.drafters and self.drafters[drafter].needs is Needs.HIDDEN_STATES

    def kind(self, drafter: str) -> str:
        """What a drafter's last proposal was: what is kept of drafts is learnt by kind."""
        return self.token_drafters[drafter].kind() if drafter in self.token_drafters else drafter
