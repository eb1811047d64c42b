from __future__ import annotations

import mlx.core as mx
import numpy as np

from helix_mlx.convert.distill.batching import ROWS, STEP, TeachingTexts
from helix_mlx.convert.distill.teacher import TEMPERATURES, Opinion
from helix_mlx.convert.distill.texts import Text

TOP = 4


def marked_text(number: int, start: int, length: int) -> tuple[Text, Opinion]:
    """A text of which every opinion says the text's own number."""
    written = length - start
    opinion = Opinion(
        mx.full((written, TOP), number, mx.int32),
        mx.zeros((written, TOP), mx.float16),
        mx.ones((written, len(TEMPERATURES))),
    )
    return Text(number, 0, 0.7, start, tuple(range(100 * number, 100 * number + length))), opinion


def teaching_texts(limit: int, *texts: tuple[int, int]) -> TeachingTexts:
    made = [marked_text(number, start, length) for number, (start, length) in enumerate(texts)]
    return TeachingTexts([text for text, _ in made], [opinion for _, opinion in made], limit)


def test_every_written_token_is_taught_once_at_its_own_place() -> None:
    (rows,) = teaching_texts(1000, (2, 5), (1, 70)).batches(None)
    assert rows.tokens.shape == (ROWS, 2 * STEP)
    places, weights = np.array(rows.places), np.array(rows.weights)
    taught = places[weights > 0]
    length = rows.tokens.shape[1]
    assert taught.tolist() == [1, 2, 3, *range(length, length + 69)]
    ids = np.array(rows.ids)[weights > 0, 0]
    assert ids.tolist() == [0] * 3 + [1] * 69
    assert len(places) % STEP == 0
    assert np.array(rows.tokens)[0, :4].tolist() == [0, 1, 2, 3]


def test_a_longer_text_loses_its_end_and_one_cut_away_whole_is_left_out() -> None:
    found = teaching_texts(4, (2, 9), (6, 9))
    assert len(found) == 1
    (rows,) = found.batches(None)
    assert float(rows.weights.sum()) == 3  # the places 1 to 3 of the first
    assert np.array(rows.ids)[np.array(rows.weights) > 0].max() == 0


def test_an_order_is_a_seeds_and_each_has_all_texts() -> None:
    made = teaching_texts(1000, *[(1, 3 + number) for number in range(3 * ROWS)])
    assert len(made) == 3

    def order(seed: int | None) -> list[list[int]]:
        found = []
        for rows in made.batches(seed):
            taught = np.array(rows.ids)[np.array(rows.weights) > 0, 0]
            found.append(list(dict.fromkeys(taught.tolist())))
        return found

    assert order(None) == [list(range(first, first + ROWS)) for first in (0, ROWS, 2 * ROWS)]
    orders = [order(seed) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    for each in orders:
        assert sorted(number for group in each for number in group) == list(range(3 * ROWS))
