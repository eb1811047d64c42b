"""One running request: its tokens, its pages, its settings, and what it has cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from helix_mlx.engine.answer import Answer
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.request import Chunk, FinishReason, SamplingParams, Stats


@dataclass(eq=False)
class Sequence:
    """A request on its way, by the host's knowledge; in a batch the device may be a cycle ahead.

    `tokens` is the prompt and everything emitted; a cycle begins when the target has read `length` of them, all
    but the last. `target_length` and `draft_length` are how many each model has read and will not read again.
    `target` and `draft` are its keys and values while it is in no batch.
    """

    tokens: list[int]
    prompt_tokens: int
    params: SamplingParams
    max_new: int
    seed: int
    eos_ids: frozenset[int]
    answer: Answer
    table: BlockTable
    target: PagedKV
    draft: PagedKV | None
    target_length: int = 0
    draft_length: int = 0
    finish_reason: FinishReason | None = None
    stats: Stats = field(default_factory=Stats)

    @property
    def length(self) -> int:
        """All tokens but the last, whose position is this number."""
        return len(self.tokens) - 1

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
            chunks.append(Chunk(text, token, from_draft))
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

    def forget(self) -> None:
        """Take it that neither model has read anything: their keys and values cannot be trusted."""
        self.target_length = self.draft_length = 0

    def rewind(self, before: Sequence) -> None:
        """Keep what the keys and values taken over from `before` have in common with this sequence's tokens."""
        common = 0
        for ours, theirs in zip(self.tokens[: self.length], before.tokens[: before.target_length], strict=False):
            if ours != theirs:
                break
            common += 1
        self.target_length = self.target.rewind(common)
        pages = self.target.committed[0]
        if self.draft is not None:
            self.draft_length = self.draft.rewind(min(common, before.draft_length))
            pages = max(pages, self.draft.committed[0])
        self.table.truncate(pages // self.target.pool.page_size)
