"""What the target writes to prompts, kept line by line."""

from __future__ import annotations

from pathlib import Path

from helix_mlx.config import EngineConfig
from helix_mlx.convert.distill.texts import read_texts, write_texts
from helix_mlx.engine.engine import load
from tests.support import plain, prompt

CONFIG = EngineConfig(max_context=128, calibrate=False, cpu_kernels="off")


def test_the_texts_are_what_the_target_alone_would_say(pair: Path, tmp_path: Path) -> None:
    file, asked = tmp_path / "texts.jsonl", [prompt(9), prompt(5)]
    with load(str(pair), config=CONFIG) as engine:
        texts = write_texts(engine, asked, 2, 12, file, lambda *_: None)
        assert [(text.prompt, text.sample, text.temperature) for text in texts] == [
            (0, 0, 0.0), (0, 1, 0.7), (1, 0, 0.0), (1, 1, 0.7),
        ]  # fmt: skip
        for number, tokens in enumerate(asked):
            written = texts[2 * number]
            assert list(written.tokens) == tokens + plain(engine.pair.target.model, tokens, 12)
            assert written.start == len(tokens)
    assert sorted(read_texts(file), key=lambda text: (text.prompt, text.sample)) == texts


def test_a_line_that_broke_off_is_written_again(pair: Path, tmp_path: Path) -> None:
    file, asked = tmp_path / "texts.jsonl", [prompt(9), prompt(5)]
    with load(str(pair), config=CONFIG) as engine:
        texts = write_texts(engine, asked, 2, 12, file, lambda *_: None)
        whole = file.read_bytes()
        file.write_bytes(whole[:-7])
        done: list[int] = []
        assert write_texts(engine, asked, 2, 12, file, lambda count, _: done.append(count)) == texts
    assert done == [4]
    assert file.read_bytes() == whole
