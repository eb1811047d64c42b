"""What taking back costs: measured in turn with steps, and counted on paper."""

from __future__ import annotations

import mlx.core as mx

from helix_mlx.bench.studies.rollback import measure, on_paper, shaped
from helix_mlx.models.probe import probe

TINY = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "linear_num_value_heads": 2, "linear_num_key_heads": 1, "vocab_size": 64,
}  # fmt: skip


def test_it_is_timed_beside_a_step() -> None:
    model, config = shaped(TINY)
    mx.eval(model.parameters())
    timed = measure(model, probe(model, config), 4, 2)
    assert timed.state_bytes == 3 * 4 * (3 * (2 * 128 + 2 * 128) + 2 * 128 * 128)
    assert min(timed.step_ms, timed.advance_ms, timed.ratio) > 0


def test_on_paper_the_states_are_read_and_written_once_and_the_rows_are_read() -> None:
    few, many = on_paper("tiny", TINY, 1), on_paper("tiny", TINY, 4)
    rows = 3 * 4 * (512 + 128 + 256 + 4)
    assert many.moved - few.moved == 3 * rows
    assert few.moved - 2 * rows == 2 * 3 * 4 * (3 * 512 + 2 * 128 * 128)
    assert many.share == many.moved / many.weights
