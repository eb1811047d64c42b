"""An engine without models: it repeats what it is told, one word a token, every other one from the draft."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from helix_mlx.config import EngineConfig
from helix_mlx.engine.memory import MemoryReport
from helix_mlx.errors import PromptError
from helix_mlx.request import Chunk, Completion, FinishReason, SamplingParams, Settings, Stats, StreamSettings
from helix_mlx.thinking import ThinkMarks
from helix_mlx.types import Cancel, Message

if TYPE_CHECKING:
    from typing_extensions import Unpack


class FakeTalk:
    """Notes what it was asked. "for ever" is answered until it is cancelled, "think" with thought."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[Message], SamplingParams | None, int | None]] = []
        self.template_settings: list[dict[str, Any]] = []
        self.resets = 0

    def __enter__(self) -> FakeTalk:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def reset(self) -> None:
        self.resets += 1

    def stream(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        **settings: Unpack[StreamSettings],
    ) -> Iterator[Chunk]:
        cancel, progress = settings.get("cancel"), settings.get("progress")
        self.asked.append((list(messages), params, settings.pop("draft_tokens", None)))
        self.template_settings.append({"thinking": settings.get("thinking"), **(settings.get("template_args") or {})})
        text = messages[-1]["content"]
        if text == "too long":
            raise PromptError(
                "the prompt has 9999 tokens but the context holds 4096; shorten it, or raise --max-context"
            )
        if progress:
            progress(1, 1)
        if text.startswith("think"):
            return thoughts(answered=text != "think only")
        return endless(cancel or (lambda: False)) if text == "for ever" else words(f"You said {text}")


def words(text: str) -> Iterator[Chunk]:
    pieces = text.split(" ")
    for index, word in enumerate(pieces):
        yield Chunk(word if index == 0 else " " + word, index, index % 2 == 1)
    drafts = len(pieces) // 2
    stats = Stats(
        emitted=len(pieces),
        drafted=4,
        accepted=drafts,
        accepted_by_position=[drafts, 0, 0, 0],
        target_passes=1,
        draft_passes=4,
        tokens_per_s=50.0,
        time_to_first_token_s=0.25,
    )
    yield Chunk("", finish_reason="stop", stats=stats)


def thoughts(answered: bool) -> Iterator[Chunk]:
    """Reasoning of one drafted word, and then an answer, unless the reasoning is all there is."""
    yield Chunk("<think>", 0, reasoning=True)
    yield Chunk("hm", 1, True, reasoning=True)
    if answered:
        yield Chunk("</think>\n", 2, reasoning=True)
        yield Chunk("Yes.", 3)
    message = {"role": "assistant", "content": "\nYes." if answered else "", "reasoning_content": "hm"}
    reason: FinishReason = "stop" if answered else "length"
    yield Chunk("", None, False, reason, Stats(emitted=4), reasoning=not answered, message=message)


def endless(cancel: Cancel) -> Iterator[Chunk]:
    count = 0
    while not cancel():
        count += 1
        yield Chunk(f" {count}", count)
        time.sleep(0.01)
    yield Chunk("", finish_reason="cancelled", stats=Stats(emitted=count))


class FakeEngine:
    """Stands in for an `Engine` in the command line's tests."""

    def __init__(self, *, is_demo: bool = True, has_draft: bool = True, config: EngineConfig | None = None) -> None:
        self.name = "fake"
        self.is_demo = is_demo
        self.has_draft = has_draft
        self.config = config or EngineConfig()
        self.defaults: dict[str, Any] = {}
        self.unknown: list[str] = []
        self.talk = FakeTalk()
        self.options: Mapping[str, Any] = {}

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def conversation(self) -> FakeTalk:
        return self.talk

    def unread(self, thinking: bool | None, template_args: Mapping[str, Any] | None) -> list[str]:
        return self.unknown

    def memory(self) -> MemoryReport:
        return MemoryReport(
            pages_total=64,
            pages_used=3,
            pages_cached=5,
            bytes=2_000_000,
            budget=8_000_000,
            unused_fraction=0.25,
            context=2048,
            context_made_for=4096,
        )

    def stream_chat(self, messages: Sequence[Message], params: SamplingParams, **extra: Any) -> Iterator[Chunk]:
        return self.talk.stream(messages, params, **extra)

    def stream(self, prompt: str, params: SamplingParams, **extra: Any) -> Iterator[Chunk]:
        return self.talk.stream([{"role": "raw", "content": prompt}], params, **extra)

    def chat(self, messages: Sequence[Message], params: SamplingParams, **settings: Unpack[Settings]) -> Completion:
        chunks = list(self.talk.stream(messages, params, **settings))
        stats = chunks[-1].stats
        assert stats is not None
        text = "".join(chunk.text for chunk in chunks)
        tokens = [chunk.token for chunk in chunks if chunk.token is not None]
        settings_ = {"temperature": params.temperature}
        return Completion(text, tokens, "stop", 7, stats, settings_, ThinkMarks("<think>", "</think>"))

    def generate(self, prompt: str, params: SamplingParams) -> Completion:
        return self.chat([{"role": "raw", "content": prompt}], params)
