"""What of an answer is shown, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from helix_mlx.engine.answer import Answer
from tests.support import byte_tokenizer

CHARACTERS = byte_tokenizer()


def shown(text: str, stop: list[str]) -> tuple[list[str], bool]:
    answer = Answer(CHARACTERS.detokenizer(), stop)
    pieces = []
    for token in CHARACTERS.encode(text):
        pieces.append(answer.push(token))
        if answer.stopped:
            break
    pieces.append(answer.finish())
    assert answer.text == "".join(pieces)
    return pieces, answer.stopped


def test_a_stop_string_across_tokens_is_never_shown() -> None:
    pieces, stopped = shown("one STOP two", ["STOP"])
    assert "".join(pieces) == "one "
    assert stopped


def test_a_near_miss_is_shown_in_full() -> None:
    pieces, stopped = shown("one STO two ST", ["STOP"])
    assert "".join(pieces) == "one STO two ST"
    assert not stopped


def test_a_beginning_of_a_stop_string_is_held_back() -> None:
    answer = Answer(CHARACTERS.detokenizer(), ["abc"])
    assert [answer.push(t) for t in CHARACTERS.encode("xab")] == ["x", "", ""]
    assert answer.push(CHARACTERS.encode("d")[0]) == "abd"


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_earliest_stop(text: str, stop: list[str]) -> None:
    """As if each prefix of the whole text were searched as soon as it is there."""
    expected = text
    for end in range(len(text) + 1):
        found = [at for s in stop if (at := text[:end].find(s)) >= 0]
        if found:
            expected = text[: min(found)]
            break
    pieces, _ = shown(text, stop)
    assert "".join(pieces) == expected


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = RawTokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def test_half_a_character_is_never_shown() -> None:
    tokenizer = bytes_tokenizer()
    answer = Answer(NaiveStreamingDetokenizer(tokenizer), [])
    tokens = tokenizer.encode("aé€😀")
    pieces = [answer.push(token) for token in tokens[:-1]]
    assert "".join(pieces) == "aé€"
    assert answer.finish() == ""
