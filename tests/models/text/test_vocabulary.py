"""Two vocabularies: the same, the same but for a tail, overlapping, or strangers."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer, TokenizerWrapper
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from helix_mlx.errors import PairError
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.models.text.vocabulary import compare, fallback_ids, shared_ids, spellings
from tests.support import byte_tokenizer

CODE = ["def read(self, path): return open(path).read()", "for line in file: print(line)", "import os, sys"] * 20
PROSE = ["The old man read a line of the file and said nothing.", "She opened the path to the sea."] * 20


def trained(texts: Iterable[str], size: int, end: str = "<end>") -> Tokenizer:
    """A byte-level tokenizer, taught on some texts."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[end], initial_alphabet=letters, show_progress=False)
    raw.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=end, clean_up_tokenization_spaces=False)
    return Tokenizer(TokenizerWrapper(fast, NaiveStreamingDetokenizer, eos_token_ids=[fast.eos_token_id]))


class Words(Tokenizer):
    """A vocabulary and nothing else. `asked` counts how often it was copied, which takes long for a large one."""

    def __init__(
        self, vocab: dict[str, int], eos_ids: Iterable[int] = (), added: dict[int, bool] | None = None
    ) -> None:
        self._vocab = vocab
        self._added = added or {}
        self.eos_ids = frozenset(eos_ids)
        self.asked = 0

    @property
    def vocab(self) -> dict[str, int]:
        self.asked += 1
        return self._vocab

    @property
    def added_tokens(self) -> dict[int, bool]:
        return self._added

    @property
    def chat_template(self) -> str | None:
        return None


def words(*tokens: str, eos_ids: Iterable[int] = (), added: dict[int, bool] | None = None) -> Words:
    return Words({token: index for index, token in enumerate(tokens)}, eos_ids, added)


def test_the_same_vocabulary_is_identical() -> None:
    match = compare(byte_tokenizer(), byte_tokenizer())
    assert (match.kind, match.shared, match.first) == ("identical", 96, ())
    assert match.to_json()["share_of_draft"] == 1.0


def test_one_that_has_more_at_its_end_has_the_same_ids() -> None:
    for target, draft in ((96, 90), (90, 96)):
        match = compare(byte_tokenizer(size=target), byte_tokenizer(size=draft))
        assert (match.kind, match.shared) == ("same ids", 90)
        assert len(match.first) == 3
        assert match.first[0][0] == 90


def test_different_ones_share_by_text() -> None:
    code, prose = trained(CODE, 400), trained(PROSE, 350, end="<stop>")
    match = compare(code, prose)
    assert match.kind == "shared"
    assert 256 < match.shared < min(match.target_tokens, match.draft_tokens)
    shared = shared_ids(code, prose)
    assert len(set(shared.values())) == len(shared) == match.shared
    by_id = {index: token for token, index in prose.vocab.items()}
    for token, index in code.vocab.items():
        if index in shared and index not in code.eos_ids:
            assert by_id[shared[index]] == token
    (end,), (other_end,) = code.eos_ids, prose.eos_ids
    assert shared[end] == other_end


def test_strangers_are_refused_with_the_numbers() -> None:
    with pytest.raises(PairError, match=r"share 1 tokens, 20% of the draft's 5 .* 1 \('b' and 'x'\).*--drafter ngram"):
        compare(words("a", "b", "c", "d", "e"), words("a", "x", "y", "z", "w"))


@pytest.mark.parametrize(
    ("token", "mark", "text"),
    [
        ("Ġthe", "Ġ", b" the"),
        ("ĊĠ", "Ġ", b"\n "),
        ("Ã©", "Ġ", "é".encode()),
        ("語", "Ġ", "語"),  # no character of a byte
        ("▁the", "▁", b" the"),
        ("Ġ", "▁", "Ġ".encode()),
        ("<0x0A>", "▁", b"\n"),
        ("<h1>", "▁", b"<h1>"),
        ("the", "", b"the"),
    ],
)
def test_each_way_to_write_a_token_comes_to_its_bytes(token: str, mark: str, text: bytes | str) -> None:
    written = words(f"{mark}x", f"{mark}y", f"{mark}z", token)
    assert spellings(written)[3] == text


def test_a_large_vocabulary_has_the_other_s_mark_as_a_letter() -> None:
    """As Gemma's has Ġ, and DeepSeek's ▁: what most of it is written in counts."""
    metaspace = words("▁the", "▁of", "Ġ", "<0x41>", "A", "a")
    byte_level = words("A", "Ġthe", "Ġof", "a", "<x▁x>", added={4: True})
    assert shared_ids(byte_level, metaspace) == {0: 4, 1: 0, 2: 1, 3: 5}
    assert shared_ids(metaspace, byte_level) == {4: 0, 0: 1, 1: 2, 5: 3}


def test_a_control_token_is_no_text() -> None:
    control = words("▁x", "<s>", "</s>", "▁y", added={1: True, 2: True})
    markup = words("Ġx", "<s>", "<0x41>", "Ġy", added={1: False})
    assert shared_ids(control, markup) == {0: 0, 3: 3}
    assert shared_ids(control, words("Ġx", "<s>", "Ġz", added={1: True})) == {0: 0, 1: 1}


def test_an_added_token_is_written_as_it_is() -> None:
    byte_level = words("Ġx", "Ġy", "é", " z", "v▁w", added={2: False, 3: False, 4: False})
    assert shared_ids(byte_level, words("▁x", "▁y", "é", "▁z", "v▁w")) == {0: 0, 1: 1, 2: 2, 3: 3}


def test_a_large_vocabulary_is_copied_a_few_times_and_not_for_each_token() -> None:
    target = words(*(f"Ġ{number}" for number in range(3000)))
    draft = words(*(f"▁{number}" for number in range(100, 2000)))
    compare(target, draft)
    fallback_ids(target, draft, shared_ids(target, draft))
    assert max(target.asked, draft.asked) <= 4


def test_a_token_that_the_draft_lacks_is_shown_as_its_longest_end() -> None:
    target, draft = words("a", "reader", "zz"), words("a", "der", "er", "x")
    assert shared_ids(target, draft) == {0: 0}
    assert fallback_ids(target, draft, {0: 0}) == {1: 1, 2: 0}
