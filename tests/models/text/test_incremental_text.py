"""What of an answer is shown, and when: what its tokens decode to, whatever kind of tokenizer they are of."""

from __future__ import annotations

import codecs
import random
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from helix_mlx.models.text.incremental_text import CONTEXT, IncrementalText
from helix_mlx.models.text.tokenizer import Tokenizer
from tests.support import byte_tokenizer
from tests.tokenizer_kinds import KINDS, LINES, SPECIAL, tokenizer_of

CHARACTERS = byte_tokenizer()
ANSWERS = 60
"""Random answers of each kind; a change to what is tested here is worth 2,000."""


def shown(text: str, stop: list[str]) -> tuple[list[str], bool]:
    answer = IncrementalText(CHARACTERS, [], stop)
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
    answer = IncrementalText(CHARACTERS, [], ["abc"])
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


def marks() -> dict[str, int]:
    """The byte of each mark of byte-level tokenizers, for bytes that are in characters."""
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    characters = map(chr, [*range(0x800), *range(0x800, 0xD800, 64), *range(0xE000, 0x110000, 4096)])
    return {mark: byte for c in characters for mark, byte in zip(spell(c)[0][0], c.encode(), strict=True)}


MARKS = marks()


@cache
def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether "Ġ" is a space."""
    return "Ġ" in tokenizer.vocab and tokenizer.decode([tokenizer.vocab["Ġ"]]) == " "


def half(tokenizer: Tokenizer, tokens: list[int]) -> int:
    """Bytes at the end that are the beginning of a character, by Python's decoder."""
    data = b""
    for token in reversed(tokens):
        piece = tokenizer.piece(token) or ""
        if tokenizer.is_byte(piece):
            data = bytes([int(piece[3:5], 16)]) + data
        elif is_byte_level(tokenizer):
            data = (bytes(map(MARKS.__getitem__, piece)) if set(piece) <= set(MARKS) else piece.encode()) + data
            if len(data) > 8:
                break
        else:
            break
    decoder = codecs.getincrementaldecoder("utf-8")("strict" if tokenizer.is_byte("<0x00>") else "replace")
    try:
        decoder.decode(data)
    except UnicodeDecodeError:
        return 0
    begun = decoder.getstate()[0]
    # Python waits for the third byte of a surrogate, too, which is no character.
    return 0 if begun[:1] == b"\xed" and begun[1:2] >= b"\xa0" else len(begun)


def right_text(tokenizer: Tokenizer, prompt: list[int], answer: list[int]) -> str:
    """What the whole of it decodes to behind the prompt, less half a character at the end."""
    tokens = [token for token in (*prompt, *answer) if tokenizer.piece(token) is not None]
    cut = half(tokenizer, tokens)
    if cut and tokenizer.is_byte("<0x00>"):
        whole = tokenizer.decode(tokens[:-cut])
    else:
        whole = tokenizer.decode(tokens)[: -1 if cut else None]
    return whole[len(tokenizer.decode(prompt)) :]


def ends_in_bytes(tokenizer: Tokenizer, tokens: list[int], count: int) -> bool:
    """Whether the last tokens are bytes."""
    pieces = [piece for token in tokens if (piece := tokenizer.piece(token)) is not None]
    return len(pieces) > count and all(map(tokenizer.is_byte, pieces[-count:]))


def run(text: IncrementalText, answer: Sequence[int]) -> int:
    """Push an answer's tokens up to a stop; returns how many."""
    pieces, count = [], 0
    for token in answer:
        pieces.append(text.push(token))
        count += 1
        if text.stopped:
            break
    pieces.append(text.finish())
    assert text.text == "".join(pieces)
    return count


class Draws:
    """Random prompts, answers and stop texts for one tokenizer."""

    def __init__(self, tokenizer: Tokenizer, seed: str) -> None:
        self.draw = random.Random(seed)
        self.tokenizer = tokenizer
        vocab = tokenizer.vocab
        self.largest = max(vocab.values())
        self.bytes = sorted(token for piece, token in vocab.items() if len(piece) == 1 or tokenizer.is_byte(piece))
        self.special = [token for piece, token in vocab.items() if piece in SPECIAL]

    def tokens(self, most: int) -> list[int]:
        """Text, single characters and bytes, special tokens, the same token again, and ids that no token has."""
        draw, tokens = self.draw, list[int]()
        while len(tokens) < most:
            line = draw.choice(LINES)
            at = draw.randrange(len(line))
            tokens += draw.choice(
                (
                    self.tokenizer.encode_rendered(line[at : at + draw.randint(1, 12)]),
                    [draw.randint(0, self.largest + 9) for _ in range(draw.randint(1, 3))],
                    draw.choices(self.bytes, k=draw.randint(1, 4)),
                    [draw.choice(self.special)] * draw.randint(0, 1),
                    tokens[-1:] * draw.randint(1, 3),
                )
            )
        return tokens[:most]

    def stop(self, text: str) -> list[str]:
        """Pieces of a text, from its start, its end and anywhere, which may be none of its tokens'."""
        draw = self.draw
        at = draw.choice((0, len(text) - 1, draw.randrange(len(text))))
        near = text[at : at + draw.randint(1, 6)]
        stops = [near, near + "!", draw.choice(LINES)[:3], near[:1] + "x", "\n", " "]
        return [stop for stop in draw.sample(stops, draw.randint(1, 2)) if "\ufffd" not in stop]


def check(tokenizer: Tokenizer, draws: Draws) -> None:
    """One random answer, with stop texts or none."""
    prompt = draws.tokens(draws.draw.choice((0, 1, 3, 20)))
    answer = draws.tokens(draws.draw.randint(1, 40))
    whole = right_text(tokenizer, prompt, answer)
    stop = draws.stop(whole) if whole and draws.draw.random() < 0.6 else []
    text = IncrementalText(tokenizer, prompt, stop)
    count = run(text, answer)
    right = right_text(tokenizer, prompt, answer[:count])
    found = [at for each in stop if (at := right.find(each)) >= 0]
    said = f"prompt {prompt}, answer {answer[:count]}, stop {stop}"
    assert text.text == (right[: min(found)] if found else right), said
    assert text.stopped == bool(found), said
    if stop:
        # In a longer run of bytes stops are looked for now and then.
        lengths = [n for n in range(count) if not ends_in_bytes(tokenizer, answer[:n], 2 * CONTEXT)]
        earlier = (right_text(tokenizer, prompt, answer[:n]) for n in lengths)
        assert not any(each in before for before in earlier for each in stop), said


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_is_what_decode_says(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    draws = Draws(tokenizer, kind)
    for _ in range(ANSWERS):
        check(tokenizer, draws)


class Counted(Tokenizer):
    """Counts the ids that are decoded."""

    count = 0

    def decode(self, tokens: Sequence[int]) -> str:
        self.count += len(tokens)
        return super().decode(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_answer_costs_the_same_for_each_token(kind: str) -> None:
    """Of 5,000 tokens; or of one again and again, which may be a byte without end, a space or what is left out."""
    tokenizer = Counted(tokenizer_of(kind)._wrapper)
    draws = Draws(tokenizer, kind)
    one = tokenizer.vocab.get("<0xE2>", draws.draw.choice(draws.bytes))
    for answer, stop in ((draws.tokens(5000), []), ([one] * 2000, ["never"])):
        tokenizer.count = 0
        run(IncrementalText(tokenizer, answer, stop), answer)
        assert tokenizer.count <= 3 * CONTEXT * len(answer)


@pytest.mark.parametrize("kind", ["unigram cleaned", "word piece cleaned"])
def test_a_run_of_quotes_is_cleaned_up_as_a_whole(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    for count in range(10, 60):
        answer = tokenizer.encode_rendered("It" + " '" * count + " n't")
        text = IncrementalText(tokenizer, [], [])
        run(text, answer)
        assert text.text == tokenizer.decode(answer)


@pytest.mark.parametrize("kind", ["byte-level", "llama"])
def test_a_replacement_character_that_was_written_is_shown(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    text = IncrementalText(tokenizer, [], [])
    run(text, tokenizer.encode_rendered("a \ufffd\0 \ufffd"))
    assert text.text.endswith("a \ufffd\0 \ufffd")


def test_half_a_character_is_never_shown() -> None:
    tokenizer = tokenizer_of("byte-level")
    text = IncrementalText(tokenizer, [], [])
    pieces = [text.push(tokenizer.vocab[mark]) for mark in "aÃ©âĤ¬ðŁĺ"]
    assert pieces == ["a", "", "é", "", "", "€", "", "", ""]
    assert text.finish() == ""


def test_a_line_end_that_is_a_byte_stops_at_once() -> None:
    """Though bytes are shown only when it is known that they are characters."""
    tokenizer = tokenizer_of("llama")
    text = IncrementalText(tokenizer, tokenizer.encode_rendered("the"), ["\n"])
    tokens = [*tokenizer.encode_continued("the"), *(tokenizer.vocab[f"<0x{byte:02X}>"] for byte in "é\n".encode())]
    assert run(text, [*tokens, *tokens]) == len(tokens)
    assert text.text == "theé"


def test_the_end_of_a_long_prompt_is_enough() -> None:
    tokenizer = Counted(tokenizer_of("llama")._wrapper)
    IncrementalText(tokenizer, tokenizer.encode_rendered("the a " * 5000), [])
    assert tokenizer.count == CONTEXT
