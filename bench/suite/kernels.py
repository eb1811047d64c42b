"""The speed of the CPU kernels: the matrix product alone, and in a model of TinyLlama's shape.

    helix-mlx bench kernels [--repeats 9] [--quick]

All figures of a table come from one run, are medians of interleaved repeats, and hold for this machine alone.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map
from mlx_lm.generate import generate_step
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache

from helix_mlx.bench.output.tables import Asked
from helix_mlx.kernels.cpu.layers import replace_layers
from helix_mlx.kernels.cpu.library import CpuLibrary
from helix_mlx.kernels.quantized_matmul import quantized_matmul

INPUTS, OUTPUTS, GROUP_SIZE, BITS = 2048, 5632, 64, 4
ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
COPIES = 24
"""Matrices that are used in turn, so that none is still in a cache: 170 MB of them."""
TINYLLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 22,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
CONTEXT = 16

Weights = tuple[mx.array, mx.array, mx.array]


Work = Callable[[int], Any]
"""Something to be measured; it is told which repeat it is."""


def seconds(work: Work, repeat: int) -> float:
    """How long a piece of work takes once."""
    began = time.perf_counter()
    mx.eval(work(repeat))
    return time.perf_counter() - began


def medians(pieces: dict[str, Work], repeats: int) -> dict[str, float]:
    """The median seconds of each piece of work; they are run in turn, once before it counts."""
    taken: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats + 1):
        for name, work in pieces.items():
            taken[name].append(seconds(work, repeat))
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def read_bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read from memory together, at best."""
    words = np.ones(64 * 2**20, np.int64)
    parts = np.array_split(words, threads)
    with ThreadPoolExecutor(threads) as pool:

        def read(repeat: int) -> None:
            list(pool.map(np.max if repeat % 2 else np.bitwise_or.reduce, parts))

        return words.nbytes / min(seconds(read, repeat) for repeat in range(12))


def aim(what: str, found: float, bound: float, *, most: bool = False) -> Asked:
    """Whether a figure is what the kernels are meant to reach."""
    reached = found <= bound if most else found >= bound
    return Asked(what, f"at {'most' if most else 'least'} {bound:g}", f"{found:.2f}", reached)


def random_weights(count: int) -> list[Weights]:
    """Quantised matrices [OUTPUTS, INPUTS]."""
    made = [mx.quantize(mx.random.normal((OUTPUTS, INPUTS)), GROUP_SIZE, BITS) for _ in range(count)]
    mx.eval(made)
    return made


def product_of(x: mx.array, weights: list[Weights], library: CpuLibrary | None, offset: int = 0) -> Work:
    """The product of x with one of the matrices, another one each time."""

    def work(repeat: int) -> mx.array:
        chosen = weights[(repeat * len(ROWS) + offset) % len(weights)]
        return quantized_matmul(x, *chosen, group_size=GROUP_SIZE, bits=BITS, library=library)

    return work


def products(library: CpuLibrary, repeats: int) -> tuple[dict[str, float], list[Asked]]:
    """Print the product for every number of rows: MLX's, ours from a cache, and ours from memory.

    Returns:
        Seconds by "mlx 1", "cache 1", "memory 1" and so on, and what was asked for.
    """
    weights = random_weights(COPIES)
    pieces: dict[str, Work] = {}
    for rows in ROWS:
        x = mx.random.normal((rows, INPUTS))
        mx.eval(x)
        pieces[f"mlx {rows}"] = product_of(x, weights[:1], None)
        pieces[f"memory {rows}"] = product_of(x, weights, library, rows)
        pieces[f"warming {rows}"] = pieces[f"cache {rows}"] = product_of(x, weights[:1], library)
    taken = medians(pieces, repeats)
    print(f"x[M, {INPUTS}] by W[{OUTPUTS}, {INPUTS}], {BITS} bits, groups of {GROUP_SIZE}, float32; milliseconds")
    print(f"{'M':>2} {'MLX':>8} {'cache':>7} {'times':>6} {'memory':>7} {'times':>6}")
    for rows in ROWS:
        mlx, cache, memory = (1e3 * taken[f"{kind} {rows}"] for kind in ("mlx", "cache", "memory"))
        print(f"{rows:>2} {mlx:8.2f} {cache:7.3f} {mlx / cache:6.1f} {memory:7.3f} {mlx / memory:6.1f}")
    size = sum(array.nbytes for array in weights[0])
    bandwidth = read_bandwidth(library.threads)
    print(f"{library.threads} threads read {bandwidth / 1e9:.1f} GB/s from memory; a matrix is {size / 1e6:.1f} MB")
    found = []
    for source in ("cache", "memory"):
        one, five, eight = (taken[f"{source} {rows}"] for rows in (1, 5, 8))
        found.append(aim(f"M=1 from {source}, times as fast as MLX", taken["mlx 1"] / one, 20))
        found.append(aim(f"M=8 from {source}, times as fast as MLX", taken["mlx 8"] / eight, 80))
        found.append(aim(f"M=5 from {source}, times the time of M=1", five / one, 1.6, most=True))
    share = size / taken["memory 1"] / bandwidth
    found.append(aim("M=1 from memory, share of the read bandwidth", share, 0.5))
    return {name: each for name, each in taken.items() if not name.startswith("warming")}, found


def tinyllama(library: CpuLibrary | None, parameters: Any = None) -> Any:
    """A model of TinyLlama-1.1B's shape with random 4-bit weights, or with the parameters of another one."""
    model = llama.Model(llama.ModelArgs.from_dict(TINYLLAMA))
    nn.quantize(model, group_size=GROUP_SIZE, bits=BITS)  # lazily: what is replaced below is never computed

    def random(array: Any) -> Any:
        if array.dtype == mx.uint32:
            return mx.random.randint(-(2**31), 2**31 - 1, array.shape, mx.int32).view(mx.uint32)
        return mx.ones(array.shape) if array.ndim == 1 else mx.full(array.shape, 0.003)

    model.update(parameters or tree_map(random, model.parameters()))
    for _, layer in model.named_modules() if parameters is None else ():
        if "biases" in layer:
            layer["biases"] = layer["scales"] * -7.5  # about as many weights below zero as above
    mx.eval(model.parameters())
    if library is not None:
        replace_layers(model, library)
    return model


def passes(models: dict[str, Any], repeats: int) -> dict[str, float]:
    """Seconds of a pass of 1 and of 5 rows after CONTEXT positions."""
    pieces: dict[str, Work] = {}
    prompt = mx.arange(CONTEXT)[None] % 100
    for name, model in models.items():
        cache = make_prompt_cache(model)
        mx.eval(model(prompt, cache=cache))
        for rows in (1, 5):

            def work(repeat: int, model: Any = model, cache: Any = cache, rows: int = rows) -> mx.array:
                for layer in cache:
                    layer.trim(layer.offset - CONTEXT)
                return model(prompt[:, :rows], cache=cache)

            pieces[f"{name} {rows}"] = work
    return medians(pieces, repeats)


def decode_speed(model: Any, tokens: int) -> float:
    """Tokens a second of mlx-lm's own greedy loop, after the first."""
    times = [time.perf_counter() for _ in generate_step(mx.arange(CONTEXT) % 100, model, max_tokens=tokens)]
    return (len(times) - 1) / (times[-1] - times[0])


def whole_model(library: CpuLibrary, repeats: int) -> list[Asked]:
    """Print decoding and verification of a model of TinyLlama's shape, by MLX and by our kernels."""
    theirs = tinyllama(None)
    models = {"mlx": theirs, "ours": tinyllama(library, theirs.parameters())}
    taken = passes(models, repeats)
    speeds: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        for name, model in models.items():
            speeds[name].append(decode_speed(model, 4 if name == "mlx" else 24))
    speed = {name: statistics.median(found) for name, found in speeds.items()}
    print("\nTinyLlama-1.1B's shape, 4 bits, float32, mlx-lm's loop on the same weights")
    print(f"{'':>5} {'tokens/s':>9} {'1 row, ms':>10} {'5 rows, ms':>11} {'5 by 1':>7}")
    for name in models:
        one, five = (1e3 * taken[f"{name} {rows}"] for rows in (1, 5))
        print(f"{name:>5} {speed[name]:9.2f} {one:10.1f} {five:11.1f} {five / one:7.2f}")
    return [
        aim("decoding, times as fast as mlx-lm", speed["ours"] / speed["mlx"], 18),
        aim("5 rows, times the time of 1", taken["ours 5"] / taken["ours 1"], 2.2, most=True),
    ]
