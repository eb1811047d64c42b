"""One running request: its tokens, its pages, its settings, and what it has cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from helix_mlx.models.text.incremental_text import IncrementalText
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.request import MAX_DRAFT_TOKENS, Chunk, FinishReason, SamplingParams, Stats
from helix_mlx.speculative.acceptance import Acceptance
from helix_mlx.speculative.drafter import DrafterSpec, Needs, TokenDrafter
from helix_mlx.speculative.prefix_prior import prefix_keys
from helix_mlx.thinking import ThinkMarks
from helix_mlx.types import Progress

DRAFT_GAP = MAX_DRAFT_TOKENS + 1
"""Tokens that a draft model may have missed and still read in its cycle: those of one cycle of another drafter."""


@dataclass(eq=False)
class Sequence:
    """A request on its way, by the host's knowledge; in a batch the device may be a cycle ahead.

    `tokens` is the prompt and everything emitted; a cycle begins when the target has read `length` of them, all
    but the last. `target_length` and `draft_length` are how many each model has read and will not read again.
    `target` and `draft` are its keys and values while it runs and is in no batch. A sequence that waits, was
    preempted or has ended keeps its tokens and nothing else.

    `draft_tokens` is its K, None where the engine chooses; `drafter` is the word it was given, and `drafters` are those
    that may draft for it, with the objects of those among them that propose on the host in `token_drafters`.
    `next_drafter` and `next_draft_tokens` are who drafts in the next cycle, and how many. Past `draft_context`
    positions a draft model is not asked, which was not made for them; where it `drafts_alone` in a cycle, the model
    reads a few tokens that it missed in that very cycle. `estimates` tell how many drafts are kept, by their kind, and
    `offered` how many each drafter has for the next cycle.
    `arrival` and `priority` tell its turn, `pages_most` the pages it holds when it has grown as far as it may.
    `copies` wait until this sequence has read the prompt that they share. `index` numbers a request's answers.
    `marks` tell its reasoning from its answer, where the model has any. `cancel_wanted` may be set by any thread.
    `error` is why this answer failed, and no other. `read_from` is where reading began when it was admitted last.
    """

    tokens: list[int]
    prompt_tokens: int
    params: SamplingParams
    max_new: int
    seed: int
    eos_ids: frozenset[int]
    answer: IncrementalText
    table: BlockTable
    pages_most: int
    draft_tokens: int | None = 0
    draft_context: int = 2**31
    drafter: str = "none"
    next_drafter: str = "none"
    next_draft_tokens: int = 0
    drafters: Mapping[str, DrafterSpec] = field(default_factory=dict)
    token_drafters: dict[str, TokenDrafter] = field(default_factory=dict)
    drafts_alone: bool = False
    estimates: dict[str, Acceptance] = field(default_factory=dict)
    offered: dict[str, int] = field(default_factory=dict)
    priority: int = 0
    index: int = 0
    arrival: int = -1
    copies: list[Sequence] = field(default_factory=list)
    target: PagedKV | None = None
    draft: PagedKV | None = None
    target_length: int = 0
    draft_length: int = 0
    cancel_wanted: bool = False
    progress: Progress | None = None
    read_from: int = 0
    submitted_at: float = 0.0
    began_at: float = 0.0
    first_at: float = 0.0
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    marks: ThinkMarks | None = None
    stats: Stats = field(default_factory=Stats)

    @property
    def length(self) -> int:
        """All tokens but the last, whose position is this number."""
        return len(self.tokens) - 1

    @cached_property
    def begun(self) -> tuple[int, ...]:
        """What stands for the prefix_keys of its prompt."""
        return prefix_keys(self.tokens[: self.prompt_tokens])

    @property
    def pages_held(self) -> int:
        """Pages in its block table."""
        return len(self.table.pages)

    @property
    def emitted_count(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Tokens that its answer may still have."""
        return self.max_new - self.emitted_count

    @property
    def can_use_draft_model(self) -> bool:
        """Whether a draft model is ever asked."""
        return self.draft_tokens != 0 and any(map(self.needs_model, self.drafters))

    @property
    def uses_model(self) -> bool:
        """Whether the draft model is asked in the next cycle, if anybody is."""
        return self.needs_model(self.next_drafter)

    def needs_model(self, drafter: str) -> bool:
        """Whether a drafter, by its name, is the draft model."""
        return drafter in self.drafters and self.drafters[drafter].needs is Needs.DRAFT_MODEL

    @property
    def max_model_drafts(self) -> int:
        """The largest K for which a draft model was made for the positions."""
        return max(0, min(MAX_DRAFT_TOKENS, (self.draft_context - self.length) // 2 - 1))

    @property
    def draft_wanted(self) -> int:
        """K of the next cycle; 0 from where its draft was not made for."""
        return 0 if self.uses_model and self.next_draft_tokens > self.max_model_drafts else self.next_draft_tokens

    @property
    def draft_prefill_needed(self) -> int:
        """Tokens that a draft model has to read before the cycle, where it is going to be asked in it."""
        if not self.uses_model or (self.drafts_alone and self.draft_lag <= DRAFT_GAP):
            return 0
        return self.draft_lag

    @property
    def draft_lag(self) -> int:
        """Tokens that a draft model has not read, but for the last two, which it always reads in its cycle."""
        return max(0, self.length - 1 - self.draft_length)

    def available(self, drafter: str) -> int:
        """How many tokens a drafter, by its name, can propose now."""
        if drafter in self.token_drafters:
            return len(self.token_drafters[drafter].propose(self.tokens, MAX_DRAFT_TOKENS))
        return self.max_model_drafts if self.can_use_draft_model and self.needs_model(drafter) else 0

    def draft_kind(self, drafter: str) -> str:
        """What a drafter's last proposal was: what is kept of drafts is learnt by kind."""
        return self.token_drafters[drafter].kind() if drafter in self.token_drafters else drafter

    @property
    def finished(self) -> bool:
        """Whether the answer has ended, or failed."""
        return self.finish_reason is not None or self.error is not None

    @property
    def emitted(self) -> list[int]:
        """The tokens of the answer so far."""
        return self.tokens[self.prompt_tokens :]

    def accept(self, tokens: list[int], drafted: int) -> list[Chunk]:
        """Take a cycle's verified tokens, up to whatever ends the answer.

        Args:
            tokens: verified tokens in order: the drafts that were kept, and one more.
            drafted: K, the drafts of the cycle.

        Returns:
            One chunk a token taken. Sets `finish_reason` at the end.
        """
        chunks = []
        self.stats.drafted += drafted
        self.stats.accepted_by_position += [0] * (drafted - len(self.stats.accepted_by_position))
        for index, token in enumerate(tokens):
            self.tokens.append(token)
            self.stats.emitted += 1
            from_draft = index < len(tokens) - 1
            if from_draft:
                self.stats.accepted += 1
                self.stats.accepted_by_position[index] += 1
            ends = token in self.eos_ids
            text = "" if ends else self.answer.push(token)
            chunks.append(Chunk(text, token, from_draft, index=self.index))
            if ends or self.answer.stopped:
                self.finish_reason = "stop"
            elif self.stats.emitted >= self.max_new:
                self.finish_reason = "length"
            if self.finish_reason:
                break
        return chunks

    def finish_text(self) -> str:
        """The text still held back, once the answer has ended; it may turn out to hold a stop string."""
        text = self.answer.finish()
        if self.answer.stopped:
            self.finish_reason = "stop"
        return text

    @contextmanager
    def failing_alone(self) -> Iterator[None]:
        """Whatever goes wrong in the body ends this answer, and no other: it becomes its `error`."""
        try:
            yield
        except Exception as error:
            self.error = error

    def release(self) -> None:
        """Keep the tokens and nothing else; whole pages may stay in the prefix cache."""
        self.table.truncate(0)
        self.target = self.draft = None
        self.target_length = self.draft_length = 0
