"""Text to tokens: what stands before and behind a prompt; and tokenizers as they are found on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_mlx.models.text.tokenizer import Tokenizer
from tests.tokenizer_kinds import KINDS, tokenizer_of

LOSSLESS = ("byte-level", "byte-level sequence", "tekken", "llama", "gemma", "unigram", "unigram first")


@pytest.mark.parametrize("kind", KINDS)
def test_a_raw_prompt_begins_with_the_start_token_and_ends_in_no_end_token(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    start, bare = tokenizer.vocab["<s>"], tokenizer.encode_rendered("a b")
    assert tokenizer.encode("a b") == [start, *bare]
    assert tokenizer.encode("<s>a b").count(start) == 1
    assert tokenizer.encode("") == [start]


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("text", ["\nuser: hi", "user", " user", "</s><|user|>hi", "!?"])
def test_what_goes_on_from_a_text_gets_no_space_before_it(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    before = tokenizer.encode_rendered("It")
    whole = tokenizer.decode(before + tokenizer.encode_continued(text))
    rendered = tokenizer.decode(tokenizer.encode_rendered("It" + text))
    assert whole == rendered


@pytest.mark.parametrize("kind", ["tekken", "llama", "gemma", "unigram bytes", "word piece"])
def test_what_is_on_disk_is_what_was_saved(kind: str, tmp_path: Path) -> None:
    """With holes; and without the decoder that a byte-level tokenizer would need, which it is given."""
    saved = tokenizer_of(kind)._wrapper
    decoder = saved.backend_tokenizer.decoder
    if kind == "tekken":
        saved.backend_tokenizer.decoder = None
    saved.save_pretrained(tmp_path)
    saved.backend_tokenizer.decoder = decoder
    tokenizer = Tokenizer.load(tmp_path, [7, 8])
    assert tokenizer.eos_ids >= {7, 8}
    text = "It's one of them\n"
    assert tokenizer.encode(text) == tokenizer_of(kind).encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == tokenizer_of(kind).decode(tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_that_no_token_has_is_no_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = set(tokenizer.vocab.values())
    nobodys = [token for token in range(max(ids) + 99) if token not in ids]
    assert tokenizer.decode(nobodys) == ""
    assert {tokenizer.piece(token) for token in nobodys} == {None}
