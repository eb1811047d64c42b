"""What every way of asking shares: the pair, its page pool, and what becomes of a request before it runs."""

from __future__ import annotations

import json
import secrets
import threading
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
from helix_mlx.engine.memory import DEFAULT_CONTEXT, allocate_pool
from helix_mlx.engine.metrics import Metrics
from helix_mlx.engine.scheduling.draft_policy import AdaptiveDraftPolicy, estimated_ladder
from helix_mlx.engine.scheduling.failsafe_policy import FailsafePolicy
from helix_mlx.engine.scheduling.scheduler import Limits, Scheduler
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.errors import PromptError, SettingsError
from helix_mlx.kernels.cpu import attention
from helix_mlx.kernels.device import chip_name
from helix_mlx.models.loader import evaluate_all
from helix_mlx.models.pair import Pair
from helix_mlx.models.text.incremental_text import IncrementalText
from helix_mlx.models.text.shared_vocabulary import SharedVocabulary
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.prefix_cache import PrefixCache
from helix_mlx.request import Completion, Request, SamplingParams, check_draft_tokens
from helix_mlx.sampling.noise import fold_seed
from helix_mlx.speculative.calibration import LadderKey, LadderStore
from helix_mlx.speculative.draft_model import DraftModel
from helix_mlx.speculative.drafter import Needs
from helix_mlx.speculative.registry import AUTO, DRAFTERS, NONE, Drafters, candidates, check_drafter, uses_draft_model
from helix_mlx.types import Notice, Progress

CALIBRATED_CONTEXT = 1024
"""A ladder is measured below so many positions; beyond, the engine learns as it runs."""
FIRST_DRAFT_TOKENS = 4
"""K that a sequence is expected to have before its first choice, for which pages are kept free."""


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
        self._drafters = drafters
        if not uses_draft_model(config.drafter, drafters):
            pair = replace(pair, draft=None)
        self.pair = pair
        self.pool, self.config = allocate_pool(pair, config)
        self._context_chosen = config.max_context is not None
        for number, loaded in enumerate((pair.target, pair.draft)):
            if loaded is None:
                continue
            evaluate_all(loaded.model)
            network = loaded.model.draft if isinstance(loaded.model, SharedVocabulary) else loaded.model
            if pair.kernels.library is not None and attention.install(network):
                self.pool.direct[number] = pair.kernels.library
        drafter = None
        if pair.draft is not None:
            drafter = DraftModel(pair.draft.model, pair.draft.vocab_size, pair.target.vocab_size)
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
        cache = PrefixCache(self.pool.allocator, config.page_size, identity, enabled=config.prefix_cache)
        models = Models(pair.target.model, pair.target.vocab_size, drafter, drafter)
        share = pair.draft.nbytes / pair.target.nbytes if pair.draft else 0.0
        self.drafting = AdaptiveDraftPolicy(estimated_ladder(share))
        chooser = FailsafePolicy(self.drafting, notice or _warn)
        self.runner = Runner(models, self.pool, cache, self.scheduler, chooser, config.lookahead)
        self.worker = EngineThread(self.runner)
        self._encoding = threading.Lock()

    @property
    def has_draft(self) -> bool:
        """Whether there is something to speculate with."""
        return self._drafter(None) != NONE

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The settings of requests that leave them out, as far as the model's makers have said."""
        return self.pair.generation.settings if self.config.generation_config else {}

    def _drafter(self, wanted: str | None, draft_tokens: int | None = None) -> str:
        """Who may draft, by name: "auto" stays where there is something to choose from."""
        wanted = check_drafter(wanted or self.config.drafter, self._drafters)
        found = candidates(wanted, self.pair.draft is not None, self._drafters)
        if not found:
            return NONE
        return AUTO if wanted == AUTO and draft_tokens is None and len(found) > 1 else next(iter(found))

    def calibrate(self, store: LadderStore, notice: Notice | None, progress: Progress | None) -> bool:
        """Find what a cycle costs here, on disk or by running some; returns whether it was found on disk.

        Raises:
            ClosedError: the engine has been closed.
        """
        notice, key = notice or (lambda _: None), self._ladder_key()
        known = store.find(key)
        if known is None:
            notice("Calibrating draft cost (one time, about 2 s)…")
            vocab = min(self.pair.target.vocab_size, self.pair.draft.vocab_size if self.pair.draft else 2**31)
            ladder = self.worker.call(
                lambda: measure(self.runner, self._trial, vocab, self.pair.draft is not None, progress)
            )
            if ladder is None:
                notice("The context is too short to calibrate; draft costs start from an estimate.")
                return False
            if not store.keep(key, ladder):
                notice("Cannot save the calibration to disk; it will run again next time.")
        else:
            ladder = known
        self.drafting.begin(ladder, measured=True)
        return known is not None

    def _trial(self, tokens: list[int]) -> Sequence:
        """A sequence of nobody's, whose answer goes on for as long as the context has room."""
        context = self.config.max_context
        assert context is not None
        return self.sequence(tokens[: context // 4 + 1], SamplingParams(max_tokens=context))

    def _ladder_key(self) -> LadderKey:
        pair = self.pair
        target, draft = (
            f"{model.source} {model.nbytes} {model.config.get('quantization')}" if model else ""
            for model in (pair.target, pair.draft)
        )
        library = pair.kernels.library
        kernels = json.dumps(pair.kernels.settings() | {"library": library and library.path.name}, sort_keys=True)
        return LadderKey(chip_name(), metadata.version("mlx"), target, draft, kernels, CALIBRATED_CONTEXT)

    def close(self) -> None:
        """End what runs and give the KV memory back; everything after that raises `ClosedError`."""
        self.worker.close()
        self.pool.keys.clear()
        self.pool.values.clear()
        mx.clear_cache()

    def metrics(self) -> Metrics:
        """What has been done and is held, as of the last step."""
        self.worker.check_open()
        return self.worker.metrics

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

    def encode(self, text: str) -> list[int]:
        """The tokens of a text; any thread may ask."""
        with self._encoding:
            return self.pair.tokenizer.encode(text)

    def render_chat(self, request: Request) -> str:
        """The text that the model's chat template makes of a request's messages; any thread may ask."""
        messages: Any = request.prompt
        tokenizer = self.pair.tokenizer
        with self._encoding:
            variables = tokenizer.template.chosen(request.thinking, request.template_args)
            return tokenizer.render_chat(messages, variables)

    def encode_rendered(self, text: str) -> list[int]:
        """The tokens of a text that the template has made; any thread may ask."""
        with self._encoding:
            return self.pair.tokenizer.encode_rendered(text)

    def encode_continued(self, text: str) -> list[int]:
        """The tokens of the rest of a text that the template has made; any thread may ask."""
        with self._encoding:
            return self.pair.tokenizer.encode_continued(text)

    def pages_needed(self, tokens: Seq[int], params: SamplingParams) -> int:
        """Pages that a request may come to hold.

        Raises:
            ClosedError: the engine has been closed.
            PromptError: the prompt is empty or does not fit the context.
        """
        self.worker.check_open()
        context = self.config.max_context
        assert context is not None
        if not tokens:
            raise PromptError("the prompt is empty; enter some text")
        if len(tokens) >= context:
            made_for = self.pair.target.max_context or DEFAULT_CONTEXT
            raised = "--max-context" if self._context_chosen else "--kv-memory" if context < made_for else ""
            raise PromptError(
                f"the prompt has {len(tokens)} tokens but the context holds {context}; shorten it"
                + (f", or raise {raised}" if raised else "")
            )
        vocab_size = self.pair.target.vocab_size
        if not 0 <= min(tokens) <= max(tokens) < vocab_size:
            raise PromptError(f"the prompt has token ids outside the model's range, 0 to {vocab_size - 1}")
        # The context was checked against the pool, so what fits the context fits the pool when it is alone there.
        return -(-min(len(tokens) + params.max_tokens, context) // self.config.page_size)

    def sequence(
        self, tokens: list[int], params: SamplingParams, draft_tokens: int | None = None, drafter: str | None = None
    ) -> Sequence:
        """A sequence to be submitted.

        Raises:
            HelixError: as `pages_needed`; or a setting is out of range.
        """
        pages_most = self.pages_needed(tokens, params)
        with self._encoding:
            stop_ids = self.pair.tokenizer.stop_ids(params.stop_tokens)
            marks = self.pair.tokenizer.marks_behind(tokens)
        vocab_size = self.pair.target.vocab_size
        for token in stop_ids:
            if not 0 <= token < vocab_size:
                raise SettingsError(f"stop-token {token} is not a token id: they go from 0 to {vocab_size - 1}")
        draft_tokens = check_draft_tokens(draft_tokens)
        draft_tokens = self.config.draft_tokens if draft_tokens is None else draft_tokens
        drafter = self._drafter(drafter, draft_tokens)
        specs = candidates(drafter, self.pair.draft is not None, self._drafters)
        if not specs:
            draft_tokens = 0
        assert self.config.max_context is not None
        draft = self.pair.draft if any(spec.needs is Needs.DRAFT_MODEL for spec in specs.values()) else None
        return Sequence(
            tokens=list(tokens),
            prompt_tokens=len(tokens),
            params=params,
            max_new=min(params.max_tokens, self.config.max_context - len(tokens)),
            seed=fold_seed(secrets.randbits(64) if params.seed is None else params.seed),
            eos_ids=self.pair.tokenizer.eos_ids | stop_ids,
            marks=marks,
            answer=IncrementalText(self.pair.tokenizer, tokens, params.stop),
            table=BlockTable(self.pool.allocator),
            pages_most=pages_most,
            draft_tokens=draft_tokens,
            draft_context=(draft.max_context if draft else None) or 2**31,
            drafter=drafter,
            next_drafter=next(iter(specs), NONE),
            next_draft_tokens=FIRST_DRAFT_TOKENS if draft_tokens is None else draft_tokens,
            drafters=specs,
            token_drafters={name: spec.make() for name, spec in specs.items() if spec.make is not None},
        )

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
                sequence.index, sequence.submitted_at = index, now
            first.progress = handle.tell_progress
        self.worker.submit([(group[0], handle) for group, handle in zip(groups, handles, strict=True)])
        return handles

    def _handle(self, group: list[Sequence]) -> Handle:
        def cancel() -> None:
            for sequence in group:
                sequence.cancel_wanted = True
            self.worker.wake()

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
            settings=self.settings(sequence.params, sequence.draft_tokens, sequence.drafter),
            marks=sequence.marks,
        )


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=2)
