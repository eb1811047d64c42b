"""One running request: its tokens, its pages, its settings, and what it has cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import mlx.core as mx

from helix_mlx.engine.scheduling.draft_state import DraftState
from helix_mlx.models.text.incremental_text import IncrementalText
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.recurrent.states import RecurrentStates
from helix_mlx.request import MAX_DRAFT_TOKENS, Chunk, FinishReason, SamplingParams, Stats
from helix_mlx.speculative.prefix_prior import prefix_keys
from helix_mlx.thinking import ThinkMarks
from helix_mlx.types import Progress

DRAFT_GAP = MAX_DRAFT_TOKENS + 1
"""Tokens that a draft model may have missed and still read in its cycle: those of one cycle of another drafter."""


@dataclass(eq=False)
class KVState:
    """The keys and values of one sequence, and how far each model has read it.

    Args:
        table: its pages, which both models share.
        target, draft: keys and values of each model, while the sequence runs and is in no batch.
        target_length, draft_length: tokens that each model has read and will not read again.
        prefill_start: `target_length` when the sequence was admitted last.
        boundaries: where recurrent states are kept while known tokens are read.
        checkpoints: states at a boundary that wait for its page to be known, with the boundary, by model.
        newest_snapshot: the digest of the newest snapshot behind the prompt, by model.
        hidden: [1, 1, H], where the draft is a head: the target's hidden state at the last position it has read, or
            zeros; None while the sequence is in a batch, which has it then.
        hidden_known: whether it is no zeros.
    """

    table: BlockTable
    target: PagedKV | None = None
    draft: PagedKV | None = None
    target_length: int = 0
    draft_length: int = 0
    prefill_start: int = 0
    boundaries: list[int] = field(default_factory=list)
    checkpoints: dict[int, tuple[int, RecurrentStates]] = field(default_factory=dict)
    newest_snapshot: dict[int, bytes] = field(default_factory=dict)
    hidden: mx.array | None = None
    hidden_known: bool = False

    def release(self) -> None:
        """Give everything back; whole pages may stay in the prefix cache."""
        self.table.truncate(0)
        self.target = self.draft = self.hidden = None
        self.hidden_known = False
        self.target_length = self.draft_length = 0
        self.checkpoints.clear()


@dataclass
class Times:
    """When a sequence was submitted, began to be read, and had its first token; `time.perf_counter`, 0 before that."""

    submitted: float = 0.0
    began: float = 0.0
    first_token: float = 0.0


@dataclass(eq=False)
class Sequence:
    """A request on its way, by the host's knowledge; in a batch the device may be a cycle ahead.

    A cycle begins when the target has read `length` of its tokens, all but the last. A sequence that waits, was
    preempted or has ended keeps its tokens and nothing else.

    Args:
        tokens: the prompt and everything emitted.
        prompt_tokens: how many of them are the prompt.
        params, seed, max_new, eos_ids: how the answer is drawn, and what ends it.
        answer: its text.
        kv: its keys and values.
        pages_most: pages that it holds when it has grown as far as it may.
        drafting: who drafts for it, and how many.
        marks: tell its reasoning from its answer, where the model has any.
        index: numbers a request's answers.
        priority, arrival: its place in the queue.
        copies: wait until this sequence has read the prompt that they share.
        progress: is told of prefilled tokens, done and in all.
        cancel_wanted: may be set by any thread.
        finish_reason, error: how the answer ended; an error is of this answer, and no other.
    """

    tokens: list[int]
    prompt_tokens: int
    params: SamplingParams
    seed: int
    max_new: int
    eos_ids: frozenset[int]
    answer: IncrementalText
    kv: KVState
    pages_most: int
    drafting: DraftState = field(default_factory=DraftState)
    marks: ThinkMarks | None = None
    index: int = 0
    priority: int = 0
    arrival: int = -1
    copies: list[Sequence] = field(default_factory=list)
    progress: Progress | None = None
    cancel_wanted: bool = False
    times: Times = field(default_factory=Times)
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    stats: Stats = field(default_factory=Stats)

    @property
    def length(self) -> int:
        """All tokens but the last, whose position is this number."""
        return len(self.tokens) - 1

    @cached_property
    def prompt_keys(self) -> tuple[int, ...]:
        """The prefix keys of its prompt."""
        return prefix_keys(self.tokens[: self.prompt_tokens])

    @property
    def target_length(self) -> int:
        """Tokens that the target has read."""
        return self.kv.target_length

    @property
    def pages_held(self) -> int:
        """Pages in its block table."""
        return len(self.kv.table.pages)

    @property
    def emitted_count(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def remaining(self) -> int:
        """Tokens that its answer may still have."""
        return self.max_new - self.emitted_count

    @property
    def max_model_drafts(self) -> int:
        """The largest K for which a draft model was made for the positions, and has what it needs."""
        if any(map(self.drafting.needs_hidden, self.drafting.drafters)) and not self.kv.hidden_known:
            return 0
        return max(0, min(MAX_DRAFT_TOKENS, (self.drafting.max_context - self.length) // 2 - 1))

    @property
    def draft_wanted(self) -> int:
        """K of the next cycle; 0 from where its draft was not made for."""
        count = self.drafting.next_draft_tokens
        return 0 if self.drafting.uses_model and count > self.max_model_drafts else count

    @property
    def draft_prefill_needed(self) -> int:
        """Tokens that a draft model has to read before the cycle, where it is going to be asked in it. A head has read
        what the target has.
        """
        drafting = self.drafting
        if not drafting.uses_model or drafting.needs_hidden(drafting.next_drafter):
            return 0
        return 0 if drafting.only_model_user and self.draft_lag <= DRAFT_GAP else self.draft_lag

    @property
    def draft_lag(self) -> int:
        """Tokens that a draft model has not read, but for the last two, which it always reads in its cycle."""
        return max(0, self.length - 1 - self.kv.draft_length)

    def available(self, drafter: str) -> int:
        """How many tokens a drafter, by its name, can propose now."""
        drafting = self.drafting
        if drafter in drafting.token_drafters:
            return len(drafting.token_drafters[drafter].propose(self.tokens, MAX_DRAFT_TOKENS))
        return self.max_model_drafts if drafting.can_use_model and drafting.needs_model(drafter) else 0

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
