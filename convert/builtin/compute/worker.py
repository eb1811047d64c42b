"""One process of a training. Started by :mod:`helix_mlx.convert.builtin.compute.processes`, several at a time."""

from __future__ import annotations

from pathlib import Path

import click
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.llama import Model

from helix_mlx.convert.builtin.architecture import (
    DRAFT,
    TARGET,
    copy_ends,
    load_float_checkpoint,
    save_float_checkpoint,
)
from helix_mlx.convert.builtin.compute.cpu_ops import cross_entropy
from helix_mlx.convert.builtin.data import corpus
from helix_mlx.convert.builtin.data.batches import Mixture, RowSource
from helix_mlx.convert.builtin.data.tokenizer import END, END_OF_TEXT, load_tokenizer, special_ids
from helix_mlx.convert.builtin.distillation import MixedSource, distillation_loss, load_teacher, write_training_texts
from helix_mlx.convert.builtin.generation import WrittenSource
from helix_mlx.convert.builtin.training import Schedule, Trainer
from helix_mlx.convert.builtin.tuning import TunedPair, TuningSource, tuning_loss

# Of the minutes of a distillation, those in which the target writes the texts the draft learns from.
WRITING_SHARE = 0.12


def next_token_loss(model: nn.Module, tokens: mx.array, weights: mx.array) -> mx.array:
    """Weighted cross entropy of tokens [B, L + 1] under the model, nats."""
    return cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], weights)


def row_source(folder: Path, seed: int) -> RowSource:
    """The rows of this process: the corpus of the running interpreter, in the tokens of ``folder``."""
    return RowSource(corpus.build_corpus(), load_tokenizer(folder / "tokenizer"), corpus.system_messages(), seed)


def rows_seed(seed: int, trainer: Trainer) -> int:
    """A seed for the rows of this process; a resumed training does not begin with the same rows again."""
    return seed + 1000 * trainer.restored_steps() + mx.distributed.init().rank()


def written_sources(teacher: Model, folder: Path, minutes: float, seed: int) -> tuple[WrittenSource, WrittenSource]:
    """Chats and code that the target writes in ``minutes``; every process has texts of its own."""
    mx.random.seed(seed)
    ids = special_ids(load_tokenizer(folder / "tokenizer"))
    eos_ids = ids[END], ids[END_OF_TEXT]
    chats, code = write_training_texts(teacher, row_source(folder, seed), eos_ids, minutes, seed)
    tokens = sum(len(text.tokens) for text in (*chats, *code))
    print(f"the target wrote {len(chats)} chats and {len(code)} pieces of code, {tokens:,} tokens", flush=True)
    return WrittenSource(chats, ids[END_OF_TEXT], seed), WrittenSource(code, ids[END_OF_TEXT], seed)


def train_target(folder: Path, minutes: float, seed: int) -> None:
    """Trains the target for ``minutes``; its float checkpoint is ``folder/target``."""
    model = TARGET.build()
    trainer = Trainer(model, next_token_loss, Schedule(minutes), folder / "target_training")
    if trainer.is_finished:
        return
    rows = row_source(folder, rows_seed(seed, trainer))

    def save() -> None:
        save_float_checkpoint(model, TARGET, folder / "tokenizer", folder / "target")

    trainer.run(rows, save)


def train_draft(folder: Path, minutes: float, seed: int) -> None:
    """Distils the draft from ``folder/target`` in ``minutes``; its float checkpoint is ``folder/draft``."""
    teacher = load_teacher(folder / "target")
    draft = DRAFT.build()
    copy_ends(teacher, draft)
    # Half the target's rows a step: a short training gains more from the number of its steps.
    schedule = Schedule(
        minutes * (1.0 - WRITING_SHARE), matrix_rate=0.01, vector_rate=2e-3, short_rows=(6, 256), long_rows=(2, 1024)
    )
    trainer = Trainer(draft, distillation_loss(teacher), schedule, folder / "draft_training")
    if trainer.is_finished:
        return
    seed = rows_seed(seed, trainer)
    chats, code = written_sources(teacher, folder, minutes * WRITING_SHARE, seed)

    def save() -> None:
        save_float_checkpoint(draft, DRAFT, folder / "tokenizer", folder / "draft")

    trainer.run(MixedSource(row_source(folder, seed), chats, code), save)


def tune_pair(folder: Path, minutes: float, seed: int) -> None:
    """Tunes copies of ``folder/target`` and ``folder/draft`` to each other; they are saved in ``folder/tuned``."""
    pair = TunedPair(load_float_checkpoint(TARGET, folder / "target"), load_float_checkpoint(DRAFT, folder / "draft"))
    schedule = Schedule(
        minutes * (1.0 - WRITING_SHARE),
        matrix_rate=0.004,
        vector_rate=6e-4,
        decay_from=0.1,
        quantised_from=0.0,
        short_rows=(8, 256),
        long_rows=(4, 512),
    )
    trainer = Trainer(pair, tuning_loss, schedule, folder / "pair_training")
    if trainer.is_finished:
        return
    seed = rows_seed(seed, trainer)
    chats, code = written_sources(load_teacher(folder / "target"), folder, minutes * WRITING_SHARE, seed)
    rows = row_source(folder, seed)
    rows.mixture = Mixture(code=0.0)  # the code is dealt out by the source itself

    def save() -> None:
        save_float_checkpoint(pair.target, TARGET, folder / "tokenizer", folder / "tuned" / "target")
        save_float_checkpoint(pair.draft, DRAFT, folder / "tokenizer", folder / "tuned" / "draft")

    trainer.run(TuningSource(rows, chats, code), save)


ROLES = {"target": train_target, "draft": train_draft, "pair": tune_pair}


@click.command()
@click.argument("role", type=click.Choice(list(ROLES)))
@click.option("--out", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--minutes", type=float, required=True)
@click.option("--seed", type=int, default=0)
def main(role: str, folder: Path, minutes: float, seed: int) -> None:
    """Trains one model of the pair, or both together, in this process."""
    if not mx.metal.is_available():
        mx.set_default_device(mx.cpu)
    mx.random.seed(seed)  # the same weights in every process
    ROLES[role](folder, minutes, seed)


if __name__ == "__main__":
    main()
