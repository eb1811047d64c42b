"""The tokenizer of a GGUF file cuts texts as the one it was made of."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer as RawTokenizer

from helix_mlx.errors import ModelError
from helix_mlx.models.gguf.file import read_gguf
from helix_mlx.models.gguf.folder import convert_gguf
from helix_mlx.models.gguf.tokenizer import write_tokenizer
from helix_mlx.models.text.tokenizer import Tokenizer
from tests.models.gguf.files import TEMPLATE, TinyGguf, put_tokenizer
from tests.tokenizer_kinds import LINES, byte_level


@pytest.fixture(scope="module")
def tiny() -> TinyGguf:
    return TinyGguf()


def written(folder: Path, tiny: TinyGguf, **settings: Any) -> tuple[RawTokenizer, list[int]]:
    """The tokenizer that is made of a file, and its end tokens."""
    ends = write_tokenizer(read_gguf([tiny.write(folder / "a.gguf", **settings)]), folder)
    return RawTokenizer.from_file(str(folder / "tokenizer.json")), ends


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("gpt-2", "It'S 1234  ok\n\nyes", ["It", "'", "S", " 1234", " ", " ok", "\n", "\n", "yes"]),
        ("default", "don't", ["don", "'t"]),
        ("smollm", "It'S 1234  ok\n", ["It", "'", "S", " ", "1", "2", "3", "4", " ", " ok", "\n"]),
        ("llama-bpe", "It'S 12345  ok!\n\nyes", ["It", "'S", " ", "123", "45", " ", " ok", "!\n\n", "yes"]),
        ("qwen2", "It'S 123  ok!\n\nyes", ["It", "'S", " ", "1", "2", "3", " ", " ok", "!\n\n", "yes"]),
        ("tekken", "helloWorld's 12!\n/x", ["hello", "World", "'s", " ", "1", "2", "!\n/", "x"]),
    ],
)
def test_each_kind_of_byte_level_bpe_cuts_words_its_own_way(
    tmp_path: Path, tiny: TinyGguf, pre: str, text: str, words: list[str]
) -> None:
    raw, _ = written(tmp_path, tiny, pre=pre)
    assert raw.pre_tokenizer is not None
    cut = [text[start:end] for _, (start, end) in raw.pre_tokenizer.pre_tokenize_str(text)]
    assert cut == words


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"])
def test_any_text_comes_back(tmp_path: Path, tiny: TinyGguf, pre: str) -> None:
    raw, _ = written(tmp_path, tiny, pre=pre)
    for line in LINES:
        assert raw.decode(raw.encode(line).ids) == line


def test_byte_level_bpe_gives_the_ids_of_the_tokenizer_in_the_file(tmp_path: Path, tiny: TinyGguf) -> None:
    original = byte_level(None)
    model = json.loads(original.to_str())["model"]
    tokens = sorted(original.get_vocab(), key=original.get_vocab().__getitem__)

    def put(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([TokenType.CONTROL if token.startswith("<") else TokenType.NORMAL for token in tokens])
        writer.add_token_merges([" ".join(merge) for merge in model["merges"]])

    raw, _ = written(tmp_path, tiny, vocabulary=put)
    for line in [*LINES, "<s>a<|user|></s>"]:
        assert raw.encode(line).ids == original.encode(line).ids


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_gives_the_ids_of_the_model_in_the_file(tmp_path: Path, tiny: TinyGguf, prefix: bool) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 3), model_writer=model, model_type="bpe", vocab_size=440, byte_fallback=True,
        character_coverage=0.98, add_dummy_prefix=prefix, remove_extra_whitespaces=False, minloglevel=2,
        normalization_rule_name="identity", user_defined_symbols=["<|user|>"],
    )  # fmt: skip
    original = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    count = original.get_piece_size()

    def kind(index: int) -> TokenType:
        if original.is_unknown(index):
            return TokenType.UNKNOWN
        if original.is_control(index):
            return TokenType.CONTROL
        if original.is_byte(index):
            return TokenType.BYTE
        return TokenType.USER_DEFINED if original.id_to_piece(index) == "<|user|>" else TokenType.NORMAL

    def put(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list([original.id_to_piece(index) for index in range(count)])
        writer.add_token_scores([original.get_score(index) for index in range(count)])
        writer.add_token_types([kind(index) for index in range(count)])
        writer.add_bos_token_id(original.bos_id())
        writer.add_eos_token_id(original.eos_id())
        writer.add_unk_token_id(original.unk_id())
        writer.add_add_space_prefix(prefix)

    raw, ends = written(tmp_path, tiny, vocabulary=put)
    assert ends == [original.eos_id()]
    for line in [*LINES, "the  twice", "Grüße"]:
        ids = raw.encode(line, add_special_tokens=False).ids
        assert ids == original.encode(line)
        assert raw.decode(ids) == line
    assert raw.encode("the").ids[0] == original.bos_id()


def test_the_chat_template_and_the_end_tokens_are_those_of_the_file(tmp_path: Path, tiny: TinyGguf) -> None:
    convert_gguf([tiny.write(tmp_path / "a.gguf")], tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    tokenizer = Tokenizer.load(tmp_path / "a", config["eos_token_id"])
    assert tokenizer.chat_template == TEMPLATE
    told = tokenizer.render_chat([{"role": "user", "content": "hello"}])
    assert told == "<|start|>user hello<|end|><|start|>assistant "
    assert tokenizer.decode(tokenizer.encode_rendered(told)) == told
    assert tokenizer.eos_ids == {0}


def test_a_start_token_stands_before_a_text_where_the_file_says_so(tmp_path: Path, tiny: TinyGguf) -> None:
    def put(writer: GGUFWriter, starts: bool) -> None:
        put_tokenizer(writer)
        writer.add_bos_token_id(1)
        writer.add_add_bos_token(starts)

    for starts in (True, False):
        convert_gguf([tiny.write(tmp_path / "a.gguf", vocabulary=put, starts=starts)], tmp_path / f"a{starts}")
        tokenizer = Tokenizer.load(tmp_path / f"a{starts}", 0)
        assert (tokenizer.encode("hello")[0] == 1) == starts


def test_what_newer_files_say_of_sampling_is_the_model_s_default(tmp_path: Path, tiny: TinyGguf) -> None:
    def put(writer: GGUFWriter) -> None:
        put_tokenizer(writer)
        writer.add_float32("general.sampling.temp", 0.6)
        writer.add_int32("general.sampling.top_k", 20)

    convert_gguf([tiny.write(tmp_path / "a.gguf", vocabulary=put)], tmp_path / "a")
    found = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    assert found == {"eos_token_id": [0], "temperature": 0.6, "top_k": 20}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"pre": "superbpe"}, "cuts words as 'superbpe' does, and Helix reads only default, gpt-2, "),
        ({"kind": "t5"}, "is of the kind 't5', and Helix reads only 'gpt2' and 'llama'"),
    ],
)
def test_a_tokenizer_that_is_not_known_is_one_line(
    tmp_path: Path, tiny: TinyGguf, settings: dict[str, Any], told: str
) -> None:
    path = tiny.write(tmp_path / "a.gguf", **settings)
    with pytest.raises(ModelError, match=told) as raised:
        convert_gguf([path], tmp_path / "a")
    assert "\n" not in str(raised.value)
    assert [each.name for each in tmp_path.iterdir()] == ["a.gguf"]
