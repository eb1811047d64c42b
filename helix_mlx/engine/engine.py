"""The facade: load a pair, generate, stream, chat, and give everything back."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Generator, Mapping, Sized
from collections.abc import Sequence as Seq
from dataclasses import replace
from functools import partial
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, overload

from helix_mlx.config import EngineConfig
from helix_mlx.engine.conversation import Conversation
from helix_mlx.engine.core import EngineCore
from helix_mlx.engine.handle import Handle
from helix_mlx.engine.memory import MemoryReport, report
from helix_mlx.engine.metrics import Metrics
from helix_mlx.engine.scheduling.sequence import Sequence
from helix_mlx.engine.streaming import read
from helix_mlx.errors import SettingsError, check_arguments, renamed
from helix_mlx.files import cache_folder
from helix_mlx.kernels.cpu.choice import choose_kernels
from helix_mlx.models.pair import Pair, load_pair
from helix_mlx.request import Chunk, Completion, Request, SamplingParams, Settings, StreamSettings
from helix_mlx.speculative.calibration import CostTableStore
from helix_mlx.speculative.cost_model import CostTable
from helix_mlx.speculative.drafter import Needs
from helix_mlx.speculative.registry import DRAFTERS, MTP, Drafters, uses
from helix_mlx.types import Message, Notice, Progress, Prompt

if TYPE_CHECKING:
    from typing_extensions import Unpack


def load(
    pair: str | None = None,
    *,
    target: str | None = None,
    draft: str | None = None,
    config: EngineConfig | None = None,
    trust_remote_code: bool = False,
    notice: Notice | None = None,
    progress: Progress | None = None,
    cost_tables: Path | None = None,
    **old: NoReturn,
) -> Engine:
    """An engine on a named pair, or on a target and a draft of one's own choice.

    Args:
        pair: a name from `helix-mlx pairs`; with neither `pair` nor `target`, the built-in pair.
        target, draft: folders or repositories on the hub; draft "none" is plain decoding.
        config: how to run it.
        trust_remote_code: allow models that bring Python code of their own.
        notice: is told, in a line, what takes a while or is not as it was wished.
        progress: is told how far the measuring of costs is, rounds done and in all.
        cost_tables: the folder of measured costs; None takes the user's cache.
        old: arguments of earlier versions; the error gives the new name.

    Raises:
        HelixError: something named is missing, unreadable, unsafe or does not fit.
    """
    check_arguments("load", old, {"ladders": "cost_tables"})
    config = config or EngineConfig()
    kernels = choose_kernels(config.cpu_kernels, config.cpu_threads, notice)
    loaded = load_pair(
        pair,
        target=target,
        draft=draft,
        trust_remote_code=trust_remote_code,
        notice=notice,
        generation_config=config.generation_config,
        draft_model=uses(config.drafter, Needs.DRAFT_MODEL),
        head=uses(config.drafter, Needs.HIDDEN_STATES) and (draft != "none" or config.drafter == MTP),
    )
    if loaded.generation.left_out and notice is not None:
        asked = ", ".join(f"{name} {value}" for name, value in loaded.generation.left_out.items())
        notice(f"The model's generation_config.json asks for {asked}, which Helix does not support; ignored.")
    if config.drafter == MTP and loaded.draft is None and notice is not None:
        notice(f"{loaded.target.source} has no usable multi-token-prediction head; running without drafts.")
    loaded = loaded.with_kernels(kernels)
    loaded.check()
    engine = Engine(loaded, config, notice)
    if config.calibrate and config.draft_tokens is None and config.drafter != "none":
        engine.calibrate(cost_tables, notice, progress)
    return engine


class Engine:
    """A pair in memory with its page pool, and a thread that answers. A context manager; threads may share it.

    Args:
        pair: target, draft and tokenizer.
        config: how to run it; what it leaves open is filled in and readable as `config`.
        notice: is told, in a line, when something is not as it should be; by default it is a warning of Python's.
        drafters: the registry of those who may draft; yours may have more rows than Helix's own.

    Raises:
        HelixError: the configuration does not fit the pair or the machine.
    """

    def __init__(
        self,
        pair: Pair,
        config: EngineConfig | None = None,
        notice: Notice | None = None,
        drafters: Drafters = DRAFTERS,
    ) -> None:
        self._core = EngineCore(pair, config or EngineConfig(), notice, drafters)
        # An engine that is dropped takes its thread along. A collection of garbage may drop it on any thread, and
        # whatever that holds, so that nothing is waited for.
        self._finalizer = weakref.finalize(self, self._core.thread.stop)
        self._finalizer.atexit = False
        self._at_exit = partial(_close, weakref.ref(self._core))
        atexit.register(self._at_exit)

    def __repr__(self) -> str:
        pair = self.pair
        draft = pair.draft.source if pair.draft else "none"
        return f"<Engine {pair.name}: target {pair.target.source}, draft {draft}, context {self.config.max_context}>"

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
    def defaults(self) -> Mapping[str, Any]:
        """What the model's generation_config.json sets of `SamplingParams`, where a request does not."""
        return self._core.defaults

    def unread(self, thinking: bool | None, template_args: Mapping[str, Any] | None) -> list[str]:
        """Of these settings of a request, those that the model's chat template does not read: they change nothing."""
        return self.pair.tokenizer.template.unread(thinking, template_args)

    @property
    def has_draft(self) -> bool:
        """Whether there is something to speculate with."""
        return self._core.has_draft

    @property
    def cost_table(self) -> CostTable:
        """What the parts of a cycle cost, as its draft lengths begin with: measured, or an estimate."""
        return self._core.draft_policy.cost_table

    @property
    def is_demo(self) -> bool:
        """Whether this is the built-in demonstration pair."""
        return self.pair.is_demo

    if not TYPE_CHECKING:  # a type checker is to find a misspelt name

        def __getattr__(self, name: str) -> Any:
            raise renamed("Engine", name, {"ladder": "cost_table"})

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what runs and give the KV memory back. The engine cannot be used after that."""
        self._core.close()
        self._finalizer.detach()
        atexit.unregister(self._at_exit)

    def calibrate(
        self, cost_tables: Path | None = None, notice: Notice | None = None, progress: Progress | None = None
    ) -> CostTable:
        """Measure what a cycle costs on this machine, unless that is known on disk; `load` does it by itself.

        It takes a second or two, in which requests wait; those that run are waited for.

        Args:
            cost_tables: the folder where it is kept; None takes the user's cache.
            notice: is told when it has to be measured.
            progress: is told rounds done and in all.

        Raises:
            ClosedError: the engine has been closed.
        """
        self._core.calibrate(CostTableStore(cost_tables or cache_folder("cost-tables")), notice, progress)
        return self.cost_table

    def memory(self) -> MemoryReport:
        """What the page pool takes and holds, and what it may grow to, as of the last step."""
        assert self.config.max_context is not None
        return report(self._core.metrics(), self.pair, self.config.max_context)

    def metrics(self) -> Metrics:
        """What has been done since the engine was made, and what is held, as of the last step."""
        return self._core.metrics()

    def submit(
        self,
        request: Request | Prompt | Seq[Message],
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        **settings: Unpack[Settings],
    ) -> Handle:
        """Start a request and return at once; it joins what runs at the next cycle. Any thread may call this.

        Args:
            request: a whole `Request`, or its prompt: a text, token ids, or the messages of a conversation.
            params, n, settings: fields of `Request` and of `SamplingParams`, where `request` is a prompt.

        Returns:
            Iterate it, with `for` or `async for`, wait for its `result()`, or `cancel()` it.

        Raises:
            HelixError: the prompt is empty or can never fit, or a setting is out of range.
        """
        if not isinstance(request, Request):
            request = replace(self._request(request, params, settings), n=n)
        elif params is not None or settings or n != 1:
            raise SettingsError("give either a Request or a prompt with single settings, not both")
        (handle,) = self._core.submit([self._sequences(request)])
        handle.owner = self
        return handle

    @overload
    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, **settings: Unpack[Settings]
    ) -> Completion: ...

    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        **settings: Unpack[Settings],
    ) -> list[Completion]: ...

    def generate(self, prompt, params=None, **settings):  # type: ignore[no-untyped-def]
        """Complete a raw text, or a list of them as one ragged batch that speculates together.

        Args:
            prompt: text or token ids; a list of texts is a batch.
            params: a whole `SamplingParams`, taken as it is; for a batch one for all, or one each.
            settings: fields of `SamplingParams`, instead of `params`, such as `temperature` and `stop`; those left
                out are the model's defaults. And those of `Request`: `draft_tokens`, `drafter`, `priority`.

        Returns:
            A completion, or a list of them in the order of the prompts.

        Raises:
            HelixError: a prompt is empty or too long, or a setting out of range.
        """
        many = not isinstance(prompt, str) and isinstance(prompt, Sized) and len(prompt) > 0
        if not many or isinstance(prompt[0], Integral):
            return self._complete([self._request(prompt, params, settings)])[0]
        if not isinstance(params, (list, tuple)):
            params = [params] * len(prompt)
        elif len(params) != len(prompt):
            raise SettingsError(f"{len(params)} params for {len(prompt)} prompts: give one for all, or one each")
        return self._complete([self._request(*each, settings) for each in zip(prompt, params, strict=True)])

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Generator[Chunk]:
        """Complete a raw text piece by piece.

        Args:
            prompt, params, settings: as in `generate`.
            cancel: a setting, too: a function that is asked while the answer is waited for, some twenty times a second
                and before every chunk; True ends the answer with finish reason "cancelled".
            progress: a setting, too: a function that is told of prefilled tokens, done and in all. Both are called in
                the thread that reads.

        Yields:
            A chunk a token, and a last one with the finish reason and the stats.
        """
        return self._stream(prompt, params, settings)

    def chat(
        self, messages: Seq[Message], params: SamplingParams | None = None, **settings: Unpack[Settings]
    ) -> Completion:
        """Answer a conversation, `[{"role": "user", "content": ...}, ...]`, through the model's chat template.

        Args:
            messages: the conversation, the new message last.
            params, settings: as in `generate`; and `thinking` and `template_args`, for the chat template.
        """
        return self._complete([self._request(messages, params, settings, chat=True)])[0]

    def stream_chat(
        self,
        messages: Seq[Message],
        params: SamplingParams | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Generator[Chunk]:
        """Answer a conversation piece by piece: the messages and settings of `chat`, read as in `stream`."""
        return self._stream(messages, params, settings, chat=True)

    def conversation(self) -> Conversation:
        """A conversation, whose turns read only what is new."""
        self._core.thread.check_open()
        return Conversation(self._core, self)

    def _complete(self, requests: list[Request]) -> list[Completion]:
        """Run prompts to their end, as many together as memory allows."""
        handles = self._core.submit([self._sequences(request) for request in requests])
        try:
            return [handle.result() for handle in handles]
        finally:
            for handle in handles:
                handle.cancel()
            for handle in handles:
                handle.wait()

    def _stream(self, prompt: Any, params: Any, settings: StreamSettings, chat: bool = False) -> Generator[Chunk]:
        cancel, progress = settings.pop("cancel", None), settings.pop("progress", None)
        request = self._request(prompt, params, settings, chat)
        # What can be refused is refused now; the work begins when the first chunk is asked for.
        (sequence,) = self._sequences(request)
        return read(self._core, sequence, cancel, progress, self)

    def _request(self, prompt: Any, params: Any, settings: Mapping[str, Any], chat: bool = False) -> Request:
        """The request of a call, with the token ids of its prompt in place of a text or of messages."""
        request = Request.of(prompt, params, settings, self._core.defaults)
        return replace(request, prompt=self._core.tokenizer.token_ids(request, chat), thinking=None, template_args=None)

    def _sequences(self, request: Request) -> list[Sequence]:
        """What a request comes to: one sequence, or n that begin alike."""
        tokens = self._core.tokenizer.token_ids(request)
        settled = request.params or SamplingParams(**self._core.defaults)
        found = []
        for index in range(request.n):
            params = settled
            if index and params.seed is not None:
                params = replace(params, seed=(params.seed + index) % 2**64)
            sequence = self._core.sequence(tokens, params, request.draft_tokens, request.drafter)
            sequence.priority = request.priority
            found.append(sequence)
        return found


def _close(core: weakref.ref[EngineCore]) -> None:
    """End the thread of an engine that is alive when the interpreter ends."""
    living = core()
    if living is not None:
        living.close()
