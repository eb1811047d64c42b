"""From a request to a sequence: its token ids, whether they fit, what ends its answer, and who may draft for it."""

from __future__ import annotations

import operator
import secrets
import threading
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from typing import Any

from helix_mlx.config import EngineConfig
from helix_mlx.engine.memory import DEFAULT_CONTEXT
from helix_mlx.engine.scheduling.draft_state import NO_LIMIT, DraftState
from helix_mlx.engine.scheduling.sequence import KVState, Sequence
from helix_mlx.errors import PromptError, SettingsError
from helix_mlx.models.mtp.load import head_of
from helix_mlx.models.pair import Pair
from helix_mlx.models.text.incremental_text import IncrementalText
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.paging.block_table import BlockTable
from helix_mlx.paging.page_allocator import PageAllocator
from helix_mlx.request import Request, SamplingParams, check_draft_tokens
from helix_mlx.sampling.noise import fold_seed
from helix_mlx.speculative.drafter import Needs
from helix_mlx.speculative.registry import AUTO, NONE, Drafters, candidates, check_drafter
from helix_mlx.thinking import ThinkMarks


def served_by(pair: Pair) -> Needs | None:
    """What a pair's draft gives drafters to work from; None without one."""
    if pair.draft is None:
        return None
    return Needs.DRAFT_MODEL if head_of(pair.draft) is None else Needs.HIDDEN_STATES


class SharedTokenizer:
    """A pair's tokenizer for any number of threads: one at a time uses it.

    Args:
        tokenizer: the pair's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def encode(self, text: str) -> list[int]:
        """The tokens of a text."""
        with self._lock:
            return self._tokenizer.encode(text)

    def encode_rendered(self, text: str) -> list[int]:
        """The tokens of a text that the chat template has made."""
        with self._lock:
            return self._tokenizer.encode_rendered(text)

    def encode_continued(self, text: str) -> list[int]:
        """The tokens of the rest of a text that the chat template has made."""
        with self._lock:
            return self._tokenizer.encode_continued(text)

    def render_chat(self, request: Request) -> str:
        """The text that the model's chat template makes of a request's messages."""
        messages: Any = request.prompt
        with self._lock:
            variables = self._tokenizer.template.chosen(request.thinking, request.template_args)
            return self._tokenizer.render_chat(messages, variables)

    def ends_of(self, params: SamplingParams, tokens: Seq[int]) -> tuple[frozenset[int], ThinkMarks | None]:
        """The ids of a request's stop tokens, and the marks of the reasoning in an answer to these tokens."""
        with self._lock:
            return self._tokenizer.stop_ids(params.stop_tokens), self._tokenizer.marks_behind(tokens)

    def token_ids(self, request: Request, chat: bool = False) -> list[int]:
        """Token ids of a request's text or messages, or the ids as they are.

        Args:
            request: its prompt.
            chat: its prompt is messages, even where there are none.

        Raises:
            PromptError: it is none of them.
            SettingsError: a text comes with settings for a chat template.
        """
        prompt: Any = request.prompt
        if chat or (isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], Mapping)):
            return self.encode_rendered(self.render_chat(request))
        if request.needs_template:
            raise SettingsError(
                "thinking and template-arg need the chat template, which a plain prompt does not use; leave them out"
            )
        if isinstance(prompt, str):
            return self.encode(prompt)
        try:
            return [operator.index(token) for token in prompt]
        except TypeError:
            raise PromptError("a prompt must be text or a list of token ids; give one, or a list of them") from None


class SequenceBuilder:
    """Checks requests against a pair and its memory, and makes sequences of them. Any thread may call it.

    Args:
        pair: target, draft and tokenizer.
        config: with nothing left open.
        context_chosen: whether the user chose the context, so that an error can say what to raise.
        allocator: of the pages that sequences will hold.
        drafters: the registry of those who may draft.
    """

    def __init__(
        self, pair: Pair, config: EngineConfig, context_chosen: bool, allocator: PageAllocator, drafters: Drafters
    ) -> None:
        assert config.max_context is not None
        self.tokenizer = SharedTokenizer(pair.tokenizer)
        self._pair = pair
        self._config = config
        self._context = config.max_context
        self._context_chosen = context_chosen
        self._allocator = allocator
        self._drafters = drafters

    def drafter(self, wanted: str | None = None, draft_tokens: int | None = None) -> str:
        """Who may draft, by name: "auto" stays where there is something to choose from.

        Raises:
            SettingsError: there is no such drafter.
        """
        wanted = check_drafter(wanted or self._config.drafter, self._drafters)
        able = candidates(wanted, served_by(self._pair), self._drafters)
        if not able:
            return NONE
        return AUTO if wanted == AUTO and draft_tokens is None and len(able) > 1 else next(iter(able))

    def build(
        self, tokens: list[int], params: SamplingParams, draft_tokens: int | None = None, drafter: str | None = None
    ) -> Sequence:
        """A sequence to be submitted.

        Raises:
            PromptError: the prompt is empty, does not fit the context or has ids that the model does not know.
            SettingsError: a setting is out of range.
        """
        pages_most = self._pages_most(tokens, params)
        stop_ids, marks = self.tokenizer.ends_of(params, tokens)
        vocab_size = self._pair.target.vocab_size
        for token in stop_ids:
            if not 0 <= token < vocab_size:
                raise SettingsError(f"stop-token {token} is not a token id: they go from 0 to {vocab_size - 1}")
        draft_tokens = check_draft_tokens(draft_tokens)
        return Sequence(
            tokens=list(tokens),
            prompt_tokens=len(tokens),
            params=params,
            seed=fold_seed(secrets.randbits(64) if params.seed is None else params.seed),
            max_new=min(params.max_tokens, self._context - len(tokens)),
            eos_ids=self._pair.tokenizer.eos_ids | stop_ids,
            answer=IncrementalText(self._pair.tokenizer, tokens, params.stop),
            kv=KVState(BlockTable(self._allocator)),
            pages_most=pages_most,
            drafting=self._drafting(drafter, self._config.draft_tokens if draft_tokens is None else draft_tokens),
            marks=marks,
        )

    def _pages_most(self, tokens: Seq[int], params: SamplingParams) -> int:
        """Pages that a request may come to hold; raises where its tokens cannot be read."""
        context = self._context
        if not tokens:
            raise PromptError("the prompt is empty; enter some text")
        if len(tokens) >= context:
            made_for = self._pair.target.max_context or DEFAULT_CONTEXT
            raised = "--max-context" if self._context_chosen else "--kv-memory" if context < made_for else ""
            raise PromptError(
                f"the prompt has {len(tokens)} tokens but the context holds {context}; shorten it"
                + (f", or raise {raised}" if raised else "")
            )
        vocab_size = self._pair.target.vocab_size
        if not 0 <= min(tokens) <= max(tokens) < vocab_size:
            raise PromptError(f"the prompt has token ids outside the model's range, 0 to {vocab_size - 1}")
        # The context was checked against the pool, so what fits the context fits the pool when it is alone there.
        return -(-min(len(tokens) + params.max_tokens, context) // self._config.page_size)

    def _drafting(self, wanted: str | None, draft_tokens: int | None) -> DraftState:
        drafter = self.drafter(wanted, draft_tokens)
        able = candidates(drafter, served_by(self._pair), self._drafters)
        state = DraftState.of(drafter, able, draft_tokens if able else 0)
        if self._pair.draft is not None and any(spec.needs is not Needs.TOKENS for spec in able.values()):
            state.max_context = self._pair.draft.max_context or NO_LIMIT
        return state
