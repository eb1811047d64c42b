"""What every way of asking shares: the pair, its page pool, and the thread that answers."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import asdict, replace
from importlib import metadata
from typing import Any

import mlx.core as mx

from helix_mlx.config import EngineConfig
from helix_mlx.engine.execution.calibration_run import measure
from helix_mlx.engine.execution.cycle import Models
from helix_mlx.engine.execution.engine_thread import EngineThread
from helix_mlx.engine.execution.runner import Runner
from helix_mlx.engine.handle import Handle
from helix_mlx.engine.memory import allocate_pool
from helix_mlx.engine.metrics import Metrics
from helix_mlx.engine.requests import SequenceBuilder, served_by
from helix_mlx.engine.scheduling.draft_policy import AdaptiveDraftPolicy, estimated_cost_table
from helix_mlx.engine.scheduling.failsafe_policy import FailsafePolicy
from helix_mlx.engine.scheduling.scheduler import Limits, Scheduler
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.kernels.cpu import attention
from helix_mlx.kernels.device import chip_name
from helix_mlx.models.loader import evaluate_all
from helix_mlx.models.mtp.load import head_of
from helix_mlx.models.pair import Pair
from helix_mlx.models.text.shared_vocabulary import SharedVocabulary
from helix_mlx.paging.prefix_cache import PrefixCache
from helix_mlx.paging.snapshots import Snapshots
from helix_mlx.request import Completion, SamplingParams
from helix_mlx.speculative.calibration import CostTableKey, CostTableStore
from helix_mlx.speculative.draft_model import DraftModel, HeadDrafter
from helix_mlx.speculative.registry import DRAFTERS, NONE, Drafters, uses
from helix_mlx.types import Notice, Progress

CALIBRATED_CONTEXT = 1024
"""A cost table is measured below so many positions; beyond, the engine learns as it runs."""


class EngineCore:
    """A pair in memory, its pool, and the thread that runs what is submitted.

    Args:
        pair: target, draft and tokenizer.
        config: how to run it; what it leaves open is filled in and readable as `config`.
        notice: is told, in a line, when something is not as it should be; by default it is a warning of Python's.
        drafters: the registry of those who may draft.

    Raises:
        HelixError: the configuration does not fit the pair or the machine.
    """

    def __init__(
        self, pair: Pair, config: EngineConfig, notice: Notice | None = None, drafters: Drafters = DRAFTERS
    ) -> None:
        served = served_by(pair)
        if served is not None and not uses(config.drafter, served, drafters):
            pair = replace(pair, draft=None)
        self.pair = pair
        self.pool, states, self.config = allocate_pool(pair, config)
        self.requests = SequenceBuilder(
            pair, self.config, config.max_context is not None, self.pool.allocator, drafters
        )
        self.tokenizer = self.requests.tokenizer
        for number, loaded in enumerate((pair.target, pair.draft)):
            if loaded is None:
                continue
            evaluate_all(loaded.model)
            network = loaded.model.draft if isinstance(loaded.model, SharedVocabulary) else loaded.model
            if pair.kernels.library is not None and attention.install(network):
                self.pool.direct[number] = pair.kernels.library
        models = _models(pair)
        config = self.config
        assert config.max_sequences is not None
        self.scheduler: Scheduler[Sequence] = Scheduler(
            Limits(
                page_size=config.page_size,
                pages_total=self.pool.pages_most,
                max_sequences=config.max_sequences,
                prefill_tokens=config.prefill_chunk,
                max_rows=config.max_rows,
                lookahead=0 if config.lookahead == 0 else 1,
            )
        )
        identity = "\0".join([pair.target.source, pair.draft.source if pair.draft else ""]).encode()
        cache = PrefixCache(
            self.pool.allocator,
            config.page_size,
            identity,
            enabled=config.prefix_cache,
            snapshots=Snapshots(states.snapshots),
            recurrent=bool(pair.target.layout.states),
        )
        share = pair.draft.nbytes / pair.target.nbytes if pair.draft else 0.0
        self.draft_policy = AdaptiveDraftPolicy(estimated_cost_table(share))
        policy = FailsafePolicy(self.draft_policy, notice or _warn)
        self.runner = Runner(models, self.pool, cache, self.scheduler, policy, config.lookahead)
        self.thread = EngineThread(self.runner)

    @property
    def has_draft(self) -> bool:
        """Whether there is something to speculate with."""
        return self.requests.drafter() != NONE

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The settings of requests that leave them out, as far as the model's makers have said."""
        return self.pair.generation.settings if self.config.generation_config else {}

    def calibrate(self, store: CostTableStore, notice: Notice | None, progress: Progress | None) -> bool:
        """Find what a cycle costs here, on disk or by running some; returns whether it was found on disk.

        Raises:
            ClosedError: the engine has been closed.
        """
        notice, key = notice or (lambda _: None), self._cost_table_key()
        known = store.find(key)
        if known is None:
            notice("Calibrating draft cost (one time, about 2 s)…")
            vocab = min(self.pair.target.vocab_size, self.pair.draft.vocab_size if self.pair.draft else 2**31)
            cost_table = self.thread.call(
                lambda: measure(self.runner, self._calibration_sequence, vocab, self.pair.draft is not None, progress)
            )
            if cost_table is None:
                notice("The context is too short to calibrate; draft costs start from an estimate.")
                return False
            if not store.keep(key, cost_table):
                notice("Cannot save the calibration to disk; it will run again next time.")
        else:
            cost_table = known
        self.draft_policy.begin(cost_table, measured=True)
        return known is not None

    def _calibration_sequence(self, tokens: list[int]) -> Sequence:
        """A sequence for calibration only; its answer fills the context."""
        context = self.config.max_context
        assert context is not None
        return self.sequence(tokens[: context // 4 + 1], SamplingParams(max_tokens=context))

    def _cost_table_key(self) -> CostTableKey:
        pair = self.pair
        target, draft = (
            f"{model.source} {model.nbytes} {model.config.get('quantization')}" if model else ""
            for model in (pair.target, pair.draft)
        )
        library = pair.kernels.library
        kernels = json.dumps(pair.kernels.settings() | {"library": library and library.path.name}, sort_keys=True)
        return CostTableKey(chip_name(), metadata.version("mlx"), target, draft, kernels, CALIBRATED_CONTEXT)

    def close(self) -> None:
        """End what runs and give the KV memory back; everything after that raises `ClosedError`."""
        self.thread.close()
        self.pool.keys.clear()
        self.pool.values.clear()
        mx.clear_cache()

    def metrics(self) -> Metrics:
        """What has been done and is held, as of the last step."""
        self.thread.check_open()
        return self.thread.metrics

    def settings(self, params: SamplingParams, draft_tokens: int | None, drafter: str) -> dict[str, Any]:
        """The settings in force, under the words of the command line."""
        pair, config = self.pair, self.config
        return {
            **asdict(params),
            "verification": params.rule,
            "draft_tokens": "auto" if draft_tokens is None else draft_tokens,
            "drafter": drafter,
            "pair": pair.name,
            "target": pair.target.source,
            "draft": pair.draft.source if pair.draft else None,
            "page_size": config.page_size,
            "kv_memory": config.kv_memory,
            "max_context": config.max_context,
            "max_sequences": config.max_sequences,
            "max_rows": config.max_rows,
            "prefix_cache": config.prefix_cache,
            "lookahead": config.lookahead,
            **pair.kernels.settings(),
        }

    def sequence(
        self, tokens: list[int], params: SamplingParams, draft_tokens: int | None = None, drafter: str | None = None
    ) -> Sequence:
        """A sequence to be submitted.

        Raises:
            ClosedError: the engine has been closed.
            HelixError: as `SequenceBuilder.build`.
        """
        self.thread.check_open()
        return self.requests.build(tokens, params, draft_tokens, drafter)

    def submit(self, groups: Seq[list[Sequence]]) -> list[Handle]:
        """Start requests together, each a sequence and its copies.

        Raises:
            ClosedError: the engine has been closed.
        """
        handles = [self._handle(group) for group in groups]
        now = time.perf_counter()
        for group, handle in zip(groups, handles, strict=True):
            first, *copies = group
            first.copies = copies
            for index, sequence in enumerate(group):
                sequence.index, sequence.times.submitted = index, now
            first.progress = handle.tell_progress
        self.thread.submit([(group[0], handle) for group, handle in zip(groups, handles, strict=True)])
        return handles

    def _handle(self, group: list[Sequence]) -> Handle:
        def cancel() -> None:
            for sequence in group:
                sequence.cancel_wanted = True
            self.thread.wake()

        return Handle(len(group), cancel, lambda index: self.completion(group[index]), lambda index: group[index].marks)

    def completion(self, sequence: Sequence) -> Completion:
        """What an ended sequence has come to."""
        assert sequence.finish_reason is not None
        return Completion(
            text=sequence.answer.text,
            tokens=sequence.emitted,
            finish_reason=sequence.finish_reason,
            prompt_tokens=sequence.prompt_tokens,
            stats=sequence.stats,
            settings=self.settings(sequence.params, sequence.drafting.draft_tokens, sequence.drafting.drafter),
            marks=sequence.marks,
        )


def _models(pair: Pair) -> Models:
    target, draft, head = pair.target, pair.draft, head_of(pair.draft)
    if head is not None:
        return Models(target.model, target.vocab_size, None, HeadDrafter(head), head)
    if draft is None:
        return Models(target.model, target.vocab_size, None, None)
    drafter = DraftModel(draft.model, draft.vocab_size, target.vocab_size)
    return Models(target.model, target.vocab_size, drafter, drafter)


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)
