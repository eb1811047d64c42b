"""What every way of asking shares: the pair, its page pool, and who may hold how much of it."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from collections.abc import Sequence as Seq
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import mlx.core as mx

from helix_mlx.config import EngineConfig, check_draft_tokens
from helix_mlx.engine.answer import Answer
from helix_mlx.engine.generation import Cancel, Generation, Progress, Runner
from helix_mlx.engine.memory import MemoryReport, allocate_pool, report
from helix_mlx.engine.sequence import Sequence
from helix_mlx.engine.step import tail_slots
from helix_mlx.errors import ClosedError, MemoryBudgetError, PromptError
from helix_mlx.kernels import cpu_attention
from helix_mlx.models.pair import Pair
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_pool import DRAFT, TARGET
from helix_mlx.paging.paged_cache import PagedKV
from helix_mlx.request import Chunk, SamplingParams
from helix_mlx.sampling.noise import fold_seed
from helix_mlx.speculative.draft_model import DraftModel

DEFAULT_DRAFT_TOKENS = 4
"""Five rows: the widest pass that costs little more than one row on a Mac of the third generation or later."""


class Core:
    """A pair in memory, its pool, and the sequences that hold pages of it.

    Args:
        pair: target, draft and tokenizer.
        config: how to run it; what it leaves open is filled in and readable as `config`.

    Raises:
        HelixError: the configuration does not fit the pair or the machine.
    """

    def __init__(self, pair: Pair, config: EngineConfig) -> None:
        if config.drafter == "none":
            pair = replace(pair, draft=None)
        self.pair = pair
        self.pool, self.config = allocate_pool(pair, config)
        for number, loaded in enumerate((pair.target, pair.draft)):
            if pair.kernels.library is not None and loaded is not None and cpu_attention.install(loaded.model):
                self.pool.direct[number] = pair.kernels.library
        drafter = None
        if pair.draft is not None:
            drafter = DraftModel(pair.draft.model, pair.draft.vocab_size, pair.target.vocab_size)
        self._runner = Runner(
            target=pair.target.model,
            draft=drafter,
            drafter=drafter,
            draft_context=(pair.draft.max_context if pair.draft else None) or 2**31,
            chunk=self.config.prefill_chunk,
            lookahead=self.config.lookahead,
            check_open=self.check_open,
        )
        self._live: dict[Sequence, int] = {}  # sequences that hold pages, and how many each may come to need
        self._closed = False

    @property
    def has_draft(self) -> bool:
        """Whether there is a draft model to speculate with."""
        return self.pair.draft is not None

    def close(self) -> None:
        """Give the KV memory back; everything after that raises `ClosedError`."""
        self._closed = True
        self._live.clear()
        self.pool.keys.clear()
        self.pool.values.clear()
        mx.clear_cache()

    def memory(self) -> MemoryReport:
        """What the page pool holds now."""
        self.check_open()
        return report(self.pool, self._live)

    def check_open(self) -> None:
        """Raise ClosedError where the engine has been closed."""
        if self._closed:
            raise ClosedError("this engine is closed; load another one")

    def settings(self, params: SamplingParams, draft_tokens: int | None) -> dict[str, Any]:
        """The settings in force, under the words of the command line."""
        pair = self.pair
        return {
            **asdict(params),
            "verification": params.rule,
            "draft_tokens": self.draft_length(draft_tokens),
            "drafter": "model" if self.has_draft else "none",
            "pair": pair.name,
            "target": pair.target.source,
            "draft": pair.draft.source if pair.draft else None,
            "page_size": self.config.page_size,
            "kv_memory": self.config.kv_memory,
            "max_context": self.config.max_context,
            "lookahead": self.config.lookahead,
            **pair.kernels.settings(),
        }

    def draft_length(self, draft_tokens: int | None) -> int:
        """K for a call: its own, the engine's, or the default.

        Raises:
            SettingsError: it is out of range.
        """
        check_draft_tokens(draft_tokens)
        if not self.has_draft:
            return 0
        if draft_tokens is None:
            draft_tokens = self.config.draft_tokens
        return DEFAULT_DRAFT_TOKENS if draft_tokens is None else draft_tokens

    def generation(
        self,
        sequences: Seq[Sequence],
        draft_tokens: int | None,
        cancel: Cancel | None = None,
        progress: Progress | None = None,
    ) -> Generation:
        """The work that brings admitted sequences to their end."""
        self.check_open()
        return Generation(self._runner, sequences, self.draft_length(draft_tokens), cancel, progress)

    def stream(
        self,
        sequence: Sequence,
        draft_tokens: int | None,
        cancel: Cancel | None = None,
        progress: Progress | None = None,
    ) -> Generator[Chunk]:
        """An admitted sequence's answer, piece by piece; the last chunk has the finish reason and the stats."""
        try:
            with closing(self.generation([sequence], draft_tokens, cancel, progress).run()) as events:
                for _, chunk in events:
                    yield chunk
        finally:
            rest = sequence.finish_text()
        yield Chunk(rest, finish_reason=sequence.finish_reason, stats=sequence.stats)

    def admit(self, tokens: list[int], params: SamplingParams, before: Sequence | None = None) -> Sequence:
        """A new sequence with memory set aside for its worst case.

        Args:
            tokens: the prompt.
            params: its settings.
            before: an ended sequence whose pages it takes over, as far as their tokens agree.

        Raises:
            PromptError: the prompt is empty or does not fit the context.
            MemoryBudgetError: other sequences hold the memory it may need.
        """
        needed = self.pages_needed(tokens, params)
        others = sum(pages for sequence, pages in self._live.items() if sequence is not before)
        if needed + others > self.pool.allocator.pages_total:
            raise MemoryBudgetError(
                f"this request may need {needed} pages of KV memory, and {others} of {self.pool.allocator.pages_total} "
                "are spoken for; raise --kv-memory, lower --max-tokens, or end a conversation"
            )
        sequence = self._new_sequence(tokens, params, before)
        self._live[sequence] = needed
        if before is not None:
            del self._live[before]
            sequence.rewind(before)
        return sequence

    def pages_needed(self, tokens: Seq[int], params: SamplingParams) -> int:
        """Pages that a request may come to hold.

        Raises:
            ClosedError: the engine has been closed.
            PromptError: the prompt is empty or does not fit the context.
        """
        self.check_open()
        context = self.config.max_context
        assert context is not None
        if not tokens:
            raise PromptError("the prompt is empty; give some text")
        if len(tokens) >= context:
            raise PromptError(
                f"the prompt has {len(tokens)} tokens and the context {context}; shorten it, or raise --max-context"
            )
        vocab_size = self.pair.target.vocab_size
        if not 0 <= min(tokens) <= max(tokens) < vocab_size:
            raise PromptError(
                f"the prompt has token ids below 0 or above {vocab_size - 1}, which the model does not know"
            )
        return -(-min(len(tokens) + params.max_tokens, context) // self.config.page_size)

    def release(self, sequence: Sequence) -> None:
        """Give a sequence's pages back; safe to call twice, and after `close`."""
        if self._live.pop(sequence, None) is not None:
            sequence.table.truncate(0)

    def _new_sequence(self, tokens: list[int], params: SamplingParams, before: Sequence | None) -> Sequence:
        assert self.config.max_context is not None
        slots = tail_slots(self.config.page_size)
        table = before.table if before else BlockTable(self.pool.allocator)
        target = before.target if before else PagedKV.empty(self.pool, TARGET, table, slots)
        draft = before.draft if before else None
        if draft is None and self.has_draft:
            draft = PagedKV.empty(self.pool, DRAFT, table, slots)
        return Sequence(
            tokens=list(tokens),
            prompt_tokens=len(tokens),
            params=params,
            max_new=min(params.max_tokens, self.config.max_context - len(tokens)),
            seed=fold_seed(secrets.randbits(64) if params.seed is None else params.seed),
            eos_ids=self.pair.tokenizer.eos_ids,
            answer=Answer(self.pair.tokenizer.detokenizer(), params.stop),
            table=table,
            target=target,
            draft=draft,
        )
