from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from helix_mlx.convert.builtin.data.tokenizer import (
    END,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
    load_tokenizer,
    save_tokenizer,
    special_ids,
    train_tokenizer,
)
from helix_mlx.convert.builtin.evaluation import chat_prompt


def test_a_trained_tokenizer_writes_any_text_and_has_its_special_tokens_first(tmp_path: Path) -> None:
    made = train_tokenizer(["def f(x):\n    return x\n"] * 20)
    assert made.get_vocab_size() <= VOCABULARY_SIZE
    assert list(special_ids(made).values()) == list(range(len(SPECIAL_TOKENS)))
    save_tokenizer(made, tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    for text in ("def f(x):", "ünïcödé 漢字 🙂\t\n"):
        assert loaded.decode(loaded.encode(text).ids) == text
    assert len(loaded.encode("def f(x):").ids) < len("def f(x):")  # it has learnt something


def test_the_chat_template_is_what_the_pair_is_trained_and_measured_on(tmp_path: Path) -> None:
    save_tokenizer(train_tokenizer(["hello"]), tmp_path)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    messages = [{"role": "user", "content": "hello"}]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == chat_prompt("hello")
    assert loaded.eos_token == END
