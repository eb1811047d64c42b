"""A draft of the built-in shape that has seen little, and prompts to teach it on: what a distillation is measured with.

    python -m helix_mlx.convert.builtin.weak_draft --out DIR

`DIR/draft` is a float checkpoint with the built-in target's own ends, trained for a few steps on the corpus alone;
`DIR/prompts.jsonl` has questions and the first lines of code, half each.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.utils import dequantize_model, load_model

from helix_mlx import models
from helix_mlx.convert.builtin.architecture import DRAFT, copy_ends, save_float_checkpoint
from helix_mlx.convert.builtin.data import corpus
from helix_mlx.convert.builtin.data.batches import RowSource
from helix_mlx.convert.builtin.data.tokenizer import load_tokenizer
from helix_mlx.convert.distill import distillation_loss
from helix_mlx.convert.distill.numpy_ops import fastest_ops

CODE_CHARACTERS = (200, 400)
ROWS = (6, 256)


def train(target: Path, folder: Path, steps: int, seed: int) -> None:
    """Write the draft's float checkpoint, after so many steps of training."""
    mx.random.seed(seed)
    model, _ = load_model(target)
    model = dequantize_model(model)
    model.set_dtype(mx.float32)
    draft = DRAFT.build()
    copy_ends(model, draft)  # type: ignore[arg-type]
    rows = RowSource(corpus.build_corpus(), load_tokenizer(target), corpus.system_messages(), seed)
    optimizer = optim.AdamW(learning_rate=1e-3)
    gradients = nn.value_and_grad(draft, _next_token_loss)
    with fastest_ops():
        for _ in range(steps):
            tokens, weights = (mx.array(each) for each in rows.batch(*ROWS))
            _, found = gradients(draft, tokens, weights)
            optimizer.update(draft, found)
            mx.eval(draft.parameters(), optimizer.state)
    save_float_checkpoint(draft, DRAFT, target, folder / "draft")


def _next_token_loss(model: Any, tokens: mx.array, weights: mx.array) -> mx.array:
    logits = model(tokens[:, :-1]).reshape(weights.size, -1)
    found = distillation_loss.top_logprobs(logits, tokens[:, 1:].reshape(-1, 1), 1.0)
    return -mx.sum(found.squeeze(-1) * weights.reshape(-1)) / mx.sum(weights)


def write_prompts(file: Path, count: int, seed: int) -> None:
    """Write questions and the first lines of code, half each."""
    text = corpus.build_corpus()
    draw = np.random.default_rng(seed)
    questions = [text.questions[int(number)] for number in draw.choice(len(text.questions), count - count // 2, False)]
    lines = [{"prompt": question.question} for question in questions]
    for number in draw.choice(len(text.code), count // 2, False):
        code = text.code[int(number)].text
        start = int(draw.integers(0, max(1, len(code) - CODE_CHARACTERS[1])))
        start = code.rfind("\n", 0, start) + 1
        lines.append({"text": code[start : start + int(draw.integers(*CODE_CHARACTERS))].rstrip()})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@click.command()
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--steps", type=int, default=20, show_default=True)
@click.option("--prompts", type=int, default=200, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(folder: Path, steps: int, prompts: int, seed: int) -> None:
    """Train a draft too little, and write prompts for it."""
    if not mx.metal.is_available():
        mx.set_default_device(mx.cpu)
    folder.mkdir(parents=True, exist_ok=True)
    write_prompts(folder / "prompts.jsonl", prompts, seed)
    train(Path(models.__file__).parent / "tiny" / "target", folder, steps, seed)


if __name__ == "__main__":
    main()
