from __future__ import annotations

from typing import Any

import pytest

from helix_mlx.convert.recipe import Recipe, advice
from helix_mlx.errors import SettingsError


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"bits": 7}, "bits is 7"),
        ({"group_size": 48}, "group-size is 48"),
        ({"mode": "mxfp4", "bits": 8}, "mode mxfp4 has 4"),
        ({"mode": "int4"}, "mode is int4"),
        ({"mode": "float", "bits": 4}, "quantises nothing"),
        ({"mixed": "mixed_1_2"}, "recipe is mixed_1_2"),
        ({"mixed": "mixed_4_6", "bits": 4}, "sets the bits itself"),
        ({"dtype": "int8"}, "dtype is int8"),
        ({"mode": "float", "dtype": "int8"}, "dtype is int8"),
    ],
)
def test_what_does_not_go_together_is_told(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Recipe(**settings)


def test_each_mode_has_its_own_defaults() -> None:
    assert Recipe().settings == {"group_size": 64, "bits": 4, "mode": "affine"}
    assert Recipe(mode="nvfp4").settings == {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    assert Recipe(bits=8).bytes_per_weight > Recipe().bytes_per_weight


def test_old_chips_are_advised_to_take_a_floating_mode() -> None:
    assert "mxfp4" in (advice("Apple M1 Pro", Recipe()) or "")
    assert "mxfp4" in (advice("Apple M2", Recipe()) or "")
    for chip in ("Apple M3 Max", "Apple M4", "AMD EPYC", "Apple M10"):
        assert advice(chip, Recipe()) is None
    assert advice("Apple M1", Recipe(mode="mxfp4")) is None
    assert advice("Apple M1", Recipe(bits=8)) is None
