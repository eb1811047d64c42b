"""A corpus of a few lines, the built-in pair's tokenizer, and models of a size that trains in no time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from mlx_lm.models.llama import Model
from tokenizers import Tokenizer

from helix_mlx import models
from helix_mlx.convert.builtin.architecture import Architecture
from helix_mlx.convert.builtin.data.corpus import CodeFile, Corpus, Question
from helix_mlx.convert.builtin.data.tokenizer import load_tokenizer

TINY = Path(models.__file__).parent / "tiny"
TOKENIZER = TINY / "target"
TARGET = Architecture(layers=2, width=64, inner_width=64, heads=2, kv_heads=1)
DRAFT = Architecture(layers=1, width=64, inner_width=64, heads=2, kv_heads=1)


def loud(architecture: Architecture, seed: int = 0) -> Model:
    """A model whose texts are not all alike."""
    keys = iter(mx.random.split(mx.random.key(seed), 64))
    model = architecture.build()

    def spread(array: mx.array) -> mx.array:
        return array if array.ndim < 2 else mx.random.normal(array.shape, key=next(keys)) * 2 / array.shape[-1] ** 0.5

    model.update(tree_map(spread, model.parameters()))
    return model


def code(name: str, lines: int = 40) -> CodeFile:
    return CodeFile(name, "".join(f"def f{number}(x):\n    return x + {number}\n" for number in range(lines)))


def question(kind: str, subject: str, number: int = 0) -> Question:
    return Question(kind, subject, f"What is {subject} {number}?", f"It is {subject}.")  # type: ignore[arg-type]


@pytest.fixture
def corpus() -> Corpus:
    return Corpus(
        code=(code("a.py"), code("b.py", 60)),
        questions=(
            *(question("helix", "a page", number) for number in range(4)),
            *(question("stdlib", "json.loads", number) for number in range(4)),
            question("helix", "out of scope"),
        ),
        held_out_code=(code("c.py"),),
        held_out_questions=(question("helix", "a tail"), question("stdlib", "json.dumps")),
        unasked=(question("stdlib", "ast.parse"),),
    )


@pytest.fixture
def corpus_of_the_module(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """The same, where the recipe builds its own, which takes seconds."""
    monkeypatch.setattr("helix_mlx.convert.builtin.data.corpus.build_corpus", lambda: corpus)
    return corpus


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return load_tokenizer(TOKENIZER)


@pytest.fixture
def not_compiled() -> Iterator[None]:
    """Compiling a step takes longer than the few steps of a test."""
    mx.disable_compile()
    yield
    mx.enable_compile()
