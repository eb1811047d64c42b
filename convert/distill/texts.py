"""What the target says to the prompts: written by Helix itself, many at once, and kept as they end."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from helix_mlx.engine.engine import Engine
from helix_mlx.engine.handle import Handle
from helix_mlx.request import Request, SamplingParams
from helix_mlx.types import Progress

TEMPERATURES = (0.0, 0.7, 1.0, 0.7)
"""Of a prompt's texts, in turn. Greedy and sampled text differ in what a draft has to foresee."""
AT_ONCE = 16


@dataclass(frozen=True)
class Text:
    """A prompt and what the target said to it.

    Args:
        prompt: its number.
        sample: which of the prompt's texts.
        temperature: it was written at.
        start: tokens of the prompt.
        tokens: of prompt and text.
    """

    prompt: int
    sample: int
    temperature: float
    start: int
    tokens: tuple[int, ...]


def write_texts(
    engine: Engine, prompts: Sequence[list[int]], samples: int, max_tokens: int, file: Path, progress: Progress
) -> list[Text]:
    """The target's texts to prompts; those that a file has already are taken from there.

    Args:
        engine: whose target writes; that it speculates changes nothing but the time.
        prompts: token ids of each.
        samples: texts of a prompt.
        max_tokens: of a text.
        file: a line for each text that has ended.
        progress: is told texts done and in all.

    Returns:
        All texts, by prompt and sample.

    Raises:
        PromptError: a prompt does not fit the context.
    """
    known = {(text.prompt, text.sample): text for text in read_texts(file)}
    wanted = [(prompt, sample) for sample in range(samples) for prompt in range(len(prompts))]
    left = [each for each in wanted if each not in known]
    running: deque[tuple[int, int, Handle]] = deque()
    with file.open("a", encoding="utf-8") as lines:
        while left or running:
            while left and len(running) < AT_ONCE:
                prompt, sample = left.pop(0)
                running.append((prompt, sample, engine.submit(_request(prompts[prompt], prompt, sample, max_tokens))))
            prompt, sample, handle = running.popleft()
            said = handle.result().tokens
            tokens = (*prompts[prompt], *said)
            text = Text(prompt, sample, _temperature(sample), len(prompts[prompt]), tokens)
            known[prompt, sample] = text
            lines.write(json.dumps(asdict(text)) + "\n")
            lines.flush()
            progress(len(known), len(wanted))
        os.fsync(lines.fileno())
    return [known[each] for each in sorted(wanted)]


def read_texts(file: Path) -> list[Text]:
    """The texts of a file. The line that an interruption broke off is cut away."""
    if not file.exists():
        return []
    whole = file.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        with file.open("r+b") as lines:
            lines.truncate(end)
    rows = (json.loads(line) for line in whole[:end].decode().splitlines())
    return [Text(**{**row, "tokens": tuple(row["tokens"])}) for row in rows]


def _temperature(sample: int) -> float:
    return TEMPERATURES[sample % len(TEMPERATURES)]


def _request(tokens: list[int], prompt: int, sample: int, max_tokens: int) -> Request:
    temperature = _temperature(sample)
    seed = 1000 * prompt + sample if temperature else None
    return Request(list(tokens), SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed))
