"""A multi-token-prediction head for the built-in target, trained for a few steps on the corpus: to measure with.

    python -m helix_mlx.convert.builtin.head --out DIR

`DIR` is the target's folder once more, with the head in `mtp.safetensors`.

What is trained is what is used: from the target's hidden states and the next tokens, and once more from what came out
of that, the head learns the token that the target finds likeliest two places on, and three.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx_lm.utils import dequantize_model, load_model

from helix_mlx import models
from helix_mlx.convert.builtin.data import corpus
from helix_mlx.convert.builtin.data.batches import RowSource
from helix_mlx.convert.builtin.data.tokenizer import load_tokenizer
from helix_mlx.convert.distill import distillation_loss
from helix_mlx.convert.distill.numpy_ops import fastest_ops
from helix_mlx.kernels.cpu.choice import choose_kernels
from helix_mlx.models.mtp.head import MTPHead, Trunk
from helix_mlx.models.mtp.weights import family_of, new_head, save_head
from helix_mlx.models.pair import load_pair
from helix_mlx.types import Progress

ROWS = (3, 128)
CHAINED = 0.5
"""Weight of the head's second token, which it foresees from its own output."""


def add_head(target: Path, folder: Path, steps: int, seed: int, progress: Progress) -> None:
    """Copy a target of the built-in kind to a new folder, with a head that was trained for so many steps.

    Args:
        target: with its weights in 4 bits.
        folder: does not exist yet.
        steps: of training.
        seed: of the rows and of the head's first weights.
        progress: is told steps done and in all.
    """
    shutil.copytree(target, folder)
    mx.random.seed(seed)
    # The target itself is run as it is used; what a gradient goes through is its weights in float32.
    teacher = Trunk(load_pair(target=str(target), draft="none").with_kernels(choose_kernels("auto")).target.model)
    loaded, config = load_model(target)
    model: Any = dequantize_model(loaded)
    model.set_dtype(mx.float32)
    family = family_of(config)
    assert family is not None
    head = new_head(config, family, model)
    layer: Any = head.layers[0]
    for adds in (layer.self_attn.o_proj, layer.mlp.down_proj):
        adds.weight = mx.zeros_like(adds.weight)
    rows = RowSource(corpus.build_corpus(), load_tokenizer(target), corpus.system_messages(), seed)
    optimizer = optim.AdamW(learning_rate=optim.cosine_decay(4e-3, steps), betas=[0.9, 0.95])
    gradients = nn.value_and_grad(head, _loss)
    with fastest_ops():
        for step in range(steps):
            tokens, weights = (mx.array(each) for each in rows.batch(*ROWS))
            hidden = teacher.hidden(tokens[:, :-1])
            wanted = mx.argmax(teacher.logits(hidden), axis=-1)
            mx.eval(hidden, wanted)
            _, found = gradients(head, tokens, hidden, wanted, weights)
            optimizer.update(head, found)
            mx.eval(head.parameters(), optimizer.state)
            progress(step + 1, steps)
    settings = json.loads((target / "config.json").read_text(encoding="utf-8"))["quantization"]
    nn.quantize(head, **settings)
    save_head(head, folder)


def _loss(head: MTPHead, tokens: mx.array, hidden: mx.array, wanted: mx.array, weights: mx.array) -> mx.array:
    once = head(tokens[:, 1:-1], hidden[:, :-1])
    twice = head(tokens[:, 2:-1], once[:, :-1])
    first, second = (_missed(head, out, wanted, weights) for out in (once, twice))
    return first + CHAINED * second


def _missed(head: MTPHead, out: mx.array, wanted: mx.array, weights: mx.array) -> mx.array:
    """The mean of what the wanted tokens' probabilities lack, in nats; rows behind those of `out` are the last ones."""
    count = out.shape[1]
    logits = head.trunk.logits(out).flatten(0, 1)
    wanted, weights = wanted[:, -count:].reshape(-1, 1), weights[:, -count:].reshape(-1)
    logprobs = distillation_loss.top_logprobs(logits, wanted, 1.0)
    return -mx.sum(logprobs.squeeze(-1) * weights) / mx.sum(weights)


@click.command()
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--steps", type=int, default=240, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
def main(folder: Path, steps: int, seed: int) -> None:
    """Copy the built-in target to a new folder, with a head that was trained a little."""
    if not mx.metal.is_available():
        mx.set_default_device(mx.cpu)
    target = Path(models.__file__).parent / "tiny" / "target"
    add_head(target, folder, steps, seed, lambda done, total: click.echo(f"\r{done} of {total}", nl=False, err=True))


if __name__ == "__main__":
    main()
