"""Held-out figures of a quantised pair, from a plain simulation of speculation on mlx-lm's own models.

Nothing here uses Helix's engine: the figures say what the pair can give, whatever runs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from mlx_lm.utils import dequantize_model, load_model
from numpy.typing import NDArray
from tokenizers import Tokenizer

from helix_mlx.convert.builtin.data.corpus import KINDS, Corpus, Question, TextKind, hash_share
from helix_mlx.convert.builtin.data.tokenizer import END, END_OF_TEXT, load_tokenizer, special_ids
from helix_mlx.toml import read_toml

TWENTY_QUESTIONS_FILE = Path(__file__).with_name("twenty_questions.toml")
CODE_PROMPT_TOKENS = 64
Probs = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A quantised pair, loaded with mlx-lm."""

    target: nn.Module
    draft: nn.Module
    tokenizer: Tokenizer

    @property
    def eos_ids(self) -> tuple[int, int]:
        """The ids that end an answer."""
        ids = special_ids(self.tokenizer)
        return ids[END], ids[END_OF_TEXT]


@dataclass
class Acceptance:
    """Counts of a simulation. ``by_position[i]`` counts the cycles whose draft i + 1 was accepted."""

    draft_length: int
    cycles: int = 0
    emitted: int = 0
    by_position: list[int] = field(default_factory=list)

    def add(self, accepted: int, emitted: int) -> None:
        """Counts one cycle."""
        self.by_position = self.by_position or [0] * self.draft_length
        self.cycles += 1
        self.emitted += emitted
        for position in range(accepted):
            self.by_position[position] += 1

    @property
    def rate(self) -> float:
        """Accepted drafts per drafted token. Drafts after the end of an answer count as drafted, not as accepted."""
        return sum(self.by_position) / max(1, self.cycles * self.draft_length)

    @property
    def rates_by_position(self) -> list[float]:
        """For each position of the draft, the share of the cycles that accepted it."""
        return [count / max(1, self.cycles) for count in self.by_position]


@dataclass(frozen=True)
class Verdict:
    """What the target made of one of the twenty questions."""

    question: str
    answer: str
    is_right: bool


def load_pair(folder: Path) -> Pair:
    """The quantised pair in ``folder/target`` and ``folder/draft``.

    The weights are unpacked into float32, to the very numbers that the 4 bits stand for: on MLX's CPU backend that is
    several times faster than its quantised product.
    """
    models = []
    for name in ("target", "draft"):
        model, _ = load_model(folder / name)
        model.set_dtype(mx.float32)  # the scales too, so that unpacking rounds nothing
        models.append(dequantize_model(model))
    return Pair(models[0], models[1], load_tokenizer(folder / "target"))


def chat_prompt(question: str) -> str:
    """One user message in the chat template, up to where the answer begins."""
    return f"<|user|>{question}<|end|><|assistant|>"


def next_probs(logits: mx.array, temperature: float) -> Probs:
    """Rows of logits [N, V] as probabilities; temperature 0 puts all on the argmax."""
    values = np.array(logits.astype(mx.float32)).astype(np.float64)
    if temperature == 0.0:
        return np.asarray(np.eye(values.shape[-1])[values.argmax(axis=-1)])
    powers: Probs = np.exp((values - values.max(axis=-1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Setting:
    """How a simulation samples and when it ends."""

    temperature: float
    max_tokens: int = 96
    draft_length: int = 4
    seed: int = 0


def simulate(pair: Pair, prompt: Sequence[int], setting: Setting, counts: Acceptance) -> list[int]:
    """Speculates on one prompt with the token rule (greedy at temperature 0). Returns what was emitted."""
    random = np.random.default_rng(setting.seed)
    target_cache, draft_cache = make_prompt_cache(pair.target), make_prompt_cache(pair.draft)
    length = len(prompt) - 1
    pair.target(mx.array([prompt[:-1]]), cache=target_cache)
    tokens = list(prompt)
    # The draft's cache is one behind after a full acceptance, so it reads whatever it lacks.
    while len(tokens) - len(prompt) < setting.max_tokens:
        pending = tokens[draft_cache[0].offset :]
        drafts, draft_probs = _propose(pair, pending, draft_cache, setting, random)
        logits = pair.target(mx.array([[tokens[-1], *drafts]]), cache=target_cache)[0]
        accepted, next_token = _verify(next_probs(logits, setting.temperature), draft_probs, drafts, random)
        new = [*drafts[:accepted], next_token]
        ends = [place for place, token in enumerate(new) if token in pair.eos_ids]
        if ends:
            new = new[: ends[0] + 1]
        counts.add(min(accepted, len(new)), len(new))
        tokens += new
        if ends:
            break
        length = len(tokens) - 1
        trim_prompt_cache(target_cache, target_cache[0].offset - length)
        trim_prompt_cache(draft_cache, max(0, draft_cache[0].offset - length))
    return tokens[len(prompt) :]


def _propose(
    pair: Pair, pending: Sequence[int], cache: list[object], setting: Setting, random: np.random.Generator
) -> tuple[list[int], Probs]:
    """The draft's tokens and the probabilities [K, V] it drew them from."""
    drafts: list[int] = []
    rows = []
    step = list(pending)
    for _ in range(setting.draft_length):
        probs = next_probs(pair.draft(mx.array([step]), cache=cache)[0, -1:], setting.temperature)[0]
        drafts.append(int(random.choice(len(probs), p=probs)))
        rows.append(probs)
        step = drafts[-1:]
    return drafts, np.stack(rows)


def _verify(
    target_probs: Probs, draft_probs: Probs, drafts: Sequence[int], random: np.random.Generator
) -> tuple[int, int]:
    """The token rule: how many drafts are kept, and the token after them."""
    for place, token in enumerate(drafts):
        if random.random() * draft_probs[place, token] >= target_probs[place, token]:
            rest = np.maximum(target_probs[place] - draft_probs[place], 0.0)
            return place, int(random.choice(len(rest), p=rest / rest.sum()))
    last = target_probs[len(drafts)]
    return len(drafts), int(random.choice(len(last), p=last))


def held_out_prompts(corpus: Corpus, tokenizer: Tokenizer, kind: TextKind, count: int) -> list[list[int]]:
    """``count`` prompts of a kind, the same ones every time."""
    if kind == "code":
        pieces = []
        for file in corpus.held_out_code:
            tokens = tokenizer.encode(file.text).ids
            starts = range(0, max(1, len(tokens) - 2 * CODE_PROMPT_TOKENS), 4 * CODE_PROMPT_TOKENS)
            pieces += [(f"{file.name}:{start}", tokens[start : start + CODE_PROMPT_TOKENS]) for start in starts]
        return [tokens for _, tokens in sorted(pieces, key=lambda piece: hash_share(piece[0]))[:count]]
    questions = [item for item in corpus.held_out_questions if item.kind == kind]
    questions.sort(key=lambda item: hash_share("measure:" + item.question))
    return [tokenizer.encode(chat_prompt(item.question)).ids for item in questions[:count]]


def acceptance(pair: Pair, prompts: Sequence[Sequence[int]], temperature: float, seed: int = 0) -> Acceptance:
    """The acceptance over ``prompts`` at a temperature, four drafts a cycle."""
    counts = Acceptance(draft_length=4)
    for number, prompt in enumerate(prompts):
        simulate(pair, prompt, Setting(temperature, seed=seed + number), counts)
    return counts


def perplexity(model: nn.Module, texts: Sequence[tuple[list[int], int]]) -> float:
    """The exponential of the mean -log p of the tokens of each text from its given place on."""
    total, count = 0.0, 0
    for tokens, begin in texts:
        logits = model(mx.array([tokens[:-1]]))[0].astype(mx.float32)
        losses = nn.losses.cross_entropy(logits, mx.array(tokens[1:]), reduction="none")
        total += float(np.sum(np.array(losses[begin - 1 :])))
        count += len(tokens) - begin
    return math.exp(total / max(1, count))


def perplexity_texts(corpus: Corpus, tokenizer: Tokenizer, kind: TextKind) -> list[tuple[list[int], int]]:
    """Held-out texts of a kind with the place from which they count: code, or answers after their question."""
    if kind == "code":
        streams = [tokenizer.encode(file.text).ids for file in corpus.held_out_code]
        cuts = [tokens[start : start + 512] for tokens in streams for start in range(0, len(tokens), 512)]
        return [(cut, 1) for cut in cuts if len(cut) > 64][:64]
    texts = []
    for item in [item for item in corpus.held_out_questions if item.kind == kind][:300]:
        prompt = tokenizer.encode(chat_prompt(item.question)).ids
        texts.append((prompt + tokenizer.encode(item.answer + END).ids, len(prompt)))
    return texts


def answer(pair: Pair, question: str, max_tokens: int = 96) -> str:
    """The target's answer to one question at temperature 0."""
    counts = Acceptance(draft_length=4)
    prompt = pair.tokenizer.encode(chat_prompt(question)).ids
    tokens = simulate(pair, prompt, Setting(0.0, max_tokens), counts)
    return str(pair.tokenizer.decode(tokens, skip_special_tokens=True))


def ask_twenty_questions(pair: Pair, file: Path = TWENTY_QUESTIONS_FILE) -> list[Verdict]:
    """Asks the questions of the model card. An answer is right if it contains each of the question's parts."""
    verdicts = []
    for item in read_toml(file)["question"]:
        said = answer(pair, item["question"])
        verdicts.append(Verdict(item["question"], said, all(part in said for part in item["contains"])))
    return verdicts


def right_answers(pair: Pair, questions: Sequence[Question]) -> float:
    """The share of questions answered word for word."""
    return sum(answer(pair, item.question) == item.answer for item in questions) / max(1, len(questions))


@dataclass(frozen=True)
class Report:
    """Everything measured on a pair."""

    acceptance: dict[tuple[TextKind, float], Acceptance]
    perplexity: dict[tuple[TextKind, str], float]
    twenty: tuple[Verdict, ...]


def evaluate(folder: Path, corpus: Corpus, prompts_a_kind: int = 40) -> Report:
    """Measures the quantised pair in ``folder`` on the held-out part of the corpus."""
    pair = load_pair(folder)
    rates: dict[tuple[TextKind, float], Acceptance] = {}
    perplexities: dict[tuple[TextKind, str], float] = {}
    for kind in KINDS:
        prompts = held_out_prompts(corpus, pair.tokenizer, kind, prompts_a_kind)
        for temperature in (0.0, 0.8):
            rates[kind, temperature] = acceptance(pair, prompts, temperature)
        texts = perplexity_texts(corpus, pair.tokenizer, kind)
        for name, model in (("target", pair.target), ("draft", pair.draft)):
            perplexities[kind, name] = perplexity(model, texts)
    return Report(rates, perplexities, tuple(ask_twenty_questions(pair)))
