"""Training rows: code cut from files, and conversations drawn from the questions, packed to a fixed length.

Everything is drawn from one seeded generator, so a resumed or repeated training sees rows of the same distribution,
and two workers with different seeds never see the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from helix_mlx.convert.builtin.data.corpus import Corpus, Question, TextKind
from helix_mlx.convert.builtin.data.tokenizer import END, END_OF_TEXT, special_ids

Tokens = NDArray[np.int32]
Weights = NDArray[np.float32]

# Nobody can predict what a user asks; a little weight still teaches the words.
QUESTION_WEIGHT = 0.1

# Other ways to write a question, so that punctuation, case and a greeting in front do not matter.
VARIANTS = (
    "Please tell me: {}",
    "Hi! {}",
    "Hello. {}",
    "Quick question: {}",
    "{} Please answer briefly.",
    "One more question: {}",
    "{} Thanks!",
)


@dataclass(frozen=True)
class Mixture:
    """Shares of what is drawn. ``code`` of the rows are code; the other shares divide the conversations."""

    code: float = 0.3
    helix_conversations: float = 0.25
    stdlib_conversations: float = 0.55
    out_of_scope: float = 0.07
    system: float = 0.2
    single_turn: float = 0.45
    varied: float = 0.3


class RowSource:
    """Draws packed rows of training tokens. Not thread-safe; one a worker."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, system_messages: Sequence[str], seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._tokenizer = tokenizer
        self._ids = special_ids(tokenizer)
        self._system_messages = tuple(system_messages)
        self.mixture = Mixture()
        self._code = [np.array(self._encode(file.text), dtype=np.int32) for file in corpus.code]
        lengths = np.array([len(tokens) for tokens in self._code], dtype=np.float64)
        self._code_shares = lengths / lengths.sum()
        self._helix = [q for q in corpus.questions if q.kind == "helix" and q.subject != "out of scope"]
        self._out_of_scope = [q for q in corpus.questions if q.subject == "out of scope"]
        self._stdlib = [q for q in corpus.questions if q.kind == "stdlib"]
        self._unasked = list(corpus.unasked)
        self._encode_cached = lru_cache(maxsize=65536)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def batch(self, rows: int, length: int) -> tuple[Tokens, Weights]:
        """``rows`` rows of ``length + 1`` tokens, and the weight of each of the ``length`` predictions."""
        pairs = [self.row(length + 1) for _ in range(rows)]
        tokens = np.stack([pair[0] for pair in pairs])
        weights = np.stack([pair[1] for pair in pairs])
        return tokens, weights[:, 1:]

    def code_batch(self, rows: int, length: int) -> tuple[Tokens, Weights]:
        """As :meth:`batch`, of code only."""
        tokens = np.stack([self._packed(self._code_document, length + 1)[0] for _ in range(rows)])
        return tokens, np.ones((rows, length), dtype=np.float32)

    def row(self, length: int) -> tuple[Tokens, Weights]:
        """One row of ``length`` tokens with their weights: all code or all conversations."""
        return self._packed(
            self._code_document if self._random.random() < self.mixture.code else self.conversation, length
        )

    def _packed(self, draw: Callable[[], tuple[list[int], list[float]]], length: int) -> tuple[Tokens, Weights]:
        """Documents one after another, cut at ``length`` tokens."""
        tokens: list[int] = []
        weights: list[float] = []
        while len(tokens) < length:
            more_tokens, more_weights = draw()
            tokens += more_tokens
            weights += more_weights
        return np.array(tokens[:length], dtype=np.int32), np.array(weights[:length], dtype=np.float32)

    def _code_document(self) -> tuple[list[int], list[float]]:
        """A file from a random place on (or from its beginning), with its end marked."""
        file = self._code[self._random.choice(len(self._code), p=self._code_shares)]
        start = 0 if self._random.random() < 0.15 else int(self._random.integers(0, max(1, len(file) - 128)))
        tokens = [*file[start : start + 4096].tolist(), self._ids[END_OF_TEXT]]
        return tokens, [1.0] * len(tokens)

    def conversation(self) -> tuple[list[int], list[float]]:
        """A conversation of one to five turns, sometimes with a system message, with its end marked."""
        mixture = self.mixture
        tokens: list[int] = []
        weights: list[float] = []
        if self._random.random() < mixture.system:
            message = self._system_messages[self._random.integers(len(self._system_messages))]
            self._append(tokens, weights, "system", message, QUESTION_WEIGHT)
        kind = self._conversation_kind()
        turns = 1 if self._random.random() < mixture.single_turn else int(self._random.integers(2, 6))
        for _ in range(turns):
            question = self._question(kind)
            self._append(tokens, weights, "user", self._vary(question.question), QUESTION_WEIGHT)
            self._append(tokens, weights, "assistant", question.answer, 1.0)
        tokens.append(self._ids[END_OF_TEXT])
        weights.append(QUESTION_WEIGHT)
        return tokens, weights

    def chat_prompt(self) -> tuple[int, ...]:
        """A conversation up to where the assistant's answer begins; half ask what the target never learnt to answer."""
        tokens: list[int] = []
        if self._random.random() < 0.25:  # a turn before it
            before = self._question(None)
            self._append(tokens, [], "user", before.question, 0.0)
            self._append(tokens, [], "assistant", before.answer, 0.0)
        if self._unasked and self._random.random() < 0.5:
            question = self._unasked[self._random.integers(len(self._unasked))]
        else:
            question = self._question(None)
        self._append(tokens, [], "user", self._vary(question.question), 0.0)
        return (*tokens, self._ids["<|assistant|>"])

    def code_prompt(self, length: int) -> tuple[int, ...]:
        """``length`` tokens of code from a random place."""
        file = self._code[self._random.choice(len(self._code), p=self._code_shares)]
        start = int(self._random.integers(0, max(1, len(file) - length)))
        return tuple(file[start : start + length].tolist())

    def _append(self, tokens: list[int], weights: list[float], role: str, text: str, weight: float) -> None:
        content = self._encode_cached(text)
        tokens += [self._ids[f"<|{role}|>"], *content, self._ids[END]]
        weights += [QUESTION_WEIGHT, *[weight] * (len(content) + 1)]

    def _conversation_kind(self) -> TextKind | None:
        place = self._random.random() - self.mixture.helix_conversations
        if place < 0:
            return "helix"
        return "stdlib" if place < self.mixture.stdlib_conversations else None

    def _question(self, kind: TextKind | None) -> Question:
        """One question of ``kind``, or of any kind for None."""
        if self._random.random() < self.mixture.out_of_scope:
            return self._out_of_scope[self._random.integers(len(self._out_of_scope))]
        if kind is None:
            kind = "helix" if self._random.random() < 0.5 else "stdlib"
        questions = self._helix if kind == "helix" else self._stdlib
        return questions[self._random.integers(len(questions))]

    def _vary(self, question: str) -> str:
        if self._random.random() >= self.mixture.varied:
            return question
        way = int(self._random.integers(0, len(VARIANTS) + 3))
        if way < len(VARIANTS):
            return VARIANTS[way].format(question)
        varied = question.rstrip("?.!") if way != len(VARIANTS) else question
        return varied[0].lower() + varied[1:] if way != len(VARIANTS) + 1 else varied
