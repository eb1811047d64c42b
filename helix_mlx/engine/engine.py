"""The facade: load a pair, generate, stream, chat, and give everything back."""

from __future__ import annotations

import operator
from collections.abc import Generator, Sized
from collections.abc import Sequence as Seq
from numbers import Integral
from types import TracebackType
from typing import Any, overload

from helix_mlx.config import EngineConfig
from helix_mlx.engine.conversation import Conversation
from helix_mlx.engine.core import Core
from helix_mlx.engine.generation import Cancel, Progress
from helix_mlx.engine.memory import MemoryReport
from helix_mlx.engine.sequence import Sequence
from helix_mlx.errors import MemoryBudgetError, PromptError, SettingsError
from helix_mlx.kernels.cpu_kernels import choose_kernels
from helix_mlx.kernels.cpu_library import Notice
from helix_mlx.models.pair import Pair, load_pair
from helix_mlx.models.tokenizer import Message
from helix_mlx.request import Chunk, Completion, SamplingParams

Prompt = str | Seq[int]


def load(
    pair: str | None = None,
    *,
    target: str | None = None,
    draft: str | None = None,
    config: EngineConfig | None = None,
    trust_remote_code: bool = False,
    notice: Notice | None = None,
) -> Engine:
    """An engine on a named pair, or on a target and a draft of one's own choice.

    Args:
        pair: a name from `helix-mlx pairs`; with neither `pair` nor `target`, the built-in pair.
        target, draft: folders or repositories on the hub; draft "none" is plain decoding.
        config: how to run it.
        trust_remote_code: allow models that bring Python code of their own.
        notice: is told, in a line, what takes a while or is not as it was wished.

    Raises:
        HelixError: something named is missing, unreadable, unsafe or does not fit.
    """
    config = config or EngineConfig()
    if config.drafter == "none":
        draft = "none"
    kernels = choose_kernels(config.cpu_kernels, config.cpu_threads, notice)
    loaded = load_pair(pair, target=target, draft=draft, trust_remote_code=trust_remote_code)
    return Engine(loaded.with_kernels(kernels), config)


class Engine:
    """A pair in memory with its page pool. A context manager; not to be shared between threads.

    Args:
        pair: target, draft and tokenizer.
        config: how to run it; what it leaves open is filled in and readable as `config`.

    Raises:
        HelixError: the configuration does not fit the pair or the machine.
    """

    def __init__(self, pair: Pair, config: EngineConfig | None = None) -> None:
        self._core = Core(pair, config or EngineConfig())

    @property
    def pair(self) -> Pair:
        """The models and the tokenizer."""
        return self._core.pair

    @property
    def config(self) -> EngineConfig:
        """How it runs, with nothing left open."""
        return self._core.config

    @property
    def name(self) -> str:
        """The pair's name, for people."""
        return self.pair.name

    @property
    def has_draft(self) -> bool:
        """Whether there is a draft model to speculate with."""
        return self._core.has_draft

    @property
    def is_demo(self) -> bool:
        """Whether this is the built-in demonstration pair."""
        return self.pair.is_demo

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the KV memory back. The engine cannot be used after that."""
        self._core.close()

    def memory(self) -> MemoryReport:
        """What the page pool holds now."""
        return self._core.memory()

    @overload
    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, draft_tokens: int | None = None, **settings: Any
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        *,
        draft_tokens: int | None = None,
        **settings: Any,
    ) -> list[Completion]: ...

    def generate(self, prompt, params=None, *, draft_tokens=None, **settings):  # type: ignore[no-untyped-def]
        """Complete a raw text, or a list of them as one ragged batch that speculates together.

        Args:
            prompt: text or token ids; a list of texts is a batch.
            params: the settings; for a batch one for all, or one each.
            draft_tokens: K for this call, 0 to 7; None takes the engine's.
            settings: fields of `SamplingParams`, instead of `params`.

        Returns:
            A completion, or a list of them in the order of the prompts.

        Raises:
            HelixError: a prompt is empty or too long, or a setting out of range.
        """
        many = not isinstance(prompt, str) and isinstance(prompt, Sized) and len(prompt) > 0
        if not many or isinstance(prompt[0], Integral):
            one = SamplingParams.resolved(params, settings)
            return self._complete([self._encode(prompt)], [one], draft_tokens)[0]
        prompts = [self._encode(each) for each in prompt]
        if not isinstance(params, (list, tuple)):
            params = [SamplingParams.resolved(params, settings)] * len(prompts)
        elif settings or len(params) != len(prompts):
            raise SettingsError(f"{len(params)} params for {len(prompts)} prompts: give one for all, or one each")
        return self._complete(prompts, list(params), draft_tokens)

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        draft_tokens: int | None = None,
        cancel: Cancel | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Generator[Chunk]:
        """Complete a raw text piece by piece.

        Args:
            prompt, params, draft_tokens, settings: as in `generate`.
            cancel: asked between passes; True ends the answer with finish reason "cancelled".
            progress: told of prefilled tokens, done and in all.

        Yields:
            A chunk a token, and a last one with the finish reason and the stats.
        """
        return self._stream(
            self._encode(prompt), SamplingParams.resolved(params, settings), draft_tokens, cancel, progress
        )

    def chat(
        self,
        messages: Seq[Message],
        params: SamplingParams | None = None,
        *,
        draft_tokens: int | None = None,
        **settings: Any,
    ) -> Completion:
        """Answer a conversation, `[{"role": "user", "content": ...}, ...]`, through the model's chat template."""
        tokens = self.pair.tokenizer.encode_chat(messages)
        return self._complete([tokens], [SamplingParams.resolved(params, settings)], draft_tokens)[0]

    def stream_chat(
        self,
        messages: Seq[Message],
        params: SamplingParams | None = None,
        *,
        draft_tokens: int | None = None,
        cancel: Cancel | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Generator[Chunk]:
        """Answer a conversation piece by piece; as `stream`, through the model's chat template."""
        tokens = self.pair.tokenizer.encode_chat(messages)
        return self._stream(tokens, SamplingParams.resolved(params, settings), draft_tokens, cancel, progress)

    def conversation(self) -> Conversation:
        """A conversation that keeps its pages between turns."""
        self._core.check_open()
        return Conversation(self._core)

    def _complete(
        self, prompts: list[list[int]], each: list[SamplingParams], draft_tokens: int | None
    ) -> list[Completion]:
        """Run prompts to their end, as many together as memory allows."""
        for tokens, params in zip(prompts, each, strict=True):
            self._core.pages_needed(tokens, params)
        done: list[Completion] = []
        while len(done) < len(prompts):
            sequences: list[Sequence] = []
            try:
                for tokens, params in list(zip(prompts, each, strict=True))[len(done) :]:
                    try:
                        sequences.append(self._core.admit(tokens, params))
                    except MemoryBudgetError:
                        if not sequences:
                            raise
                        break
                for _ in self._core.generation(sequences, draft_tokens).run():
                    pass
                done += [self._completion(sequence, draft_tokens) for sequence in sequences]
            finally:
                for sequence in sequences:
                    self._core.release(sequence)
        return done

    def _completion(self, sequence: Sequence, draft_tokens: int | None) -> Completion:
        sequence.finish_text()
        assert sequence.finish_reason is not None
        return Completion(
            text=sequence.answer.text,
            tokens=sequence.emitted,
            finish_reason=sequence.finish_reason,
            prompt_tokens=sequence.prompt_tokens,
            stats=sequence.stats,
            settings=self._core.settings(sequence.params, draft_tokens),
        )

    def _stream(
        self,
        tokens: list[int],
        params: SamplingParams,
        draft_tokens: int | None,
        cancel: Cancel | None,
        progress: Progress | None,
    ) -> Generator[Chunk]:
        # What can be refused is refused now; memory is taken when the first chunk is asked for, since a generator
        # that is never begun could not give it back.
        self._core.pages_needed(tokens, params)
        self._core.draft_length(draft_tokens)

        def chunks() -> Generator[Chunk]:
            sequence = self._core.admit(tokens, params)
            try:
                yield from self._core.stream(sequence, draft_tokens, cancel, progress)
            finally:
                self._core.release(sequence)

        return chunks()

    def _encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a text, or the ids as they are.

        Raises:
            PromptError: it is neither.
        """
        if isinstance(prompt, str):
            return self.pair.tokenizer.encode(prompt)
        try:
            return [operator.index(token) for token in prompt]
        except TypeError:
            raise PromptError("a prompt is a text or a list of token ids; give one, or a list of them") from None
