"""Memory and time of converting a checkpoint of TinyLlama's shape, compared with `mlx_lm.convert`.

    helix-mlx bench conversion [--repeats 3] [--out FILE]

A random checkpoint in several files is written first and removed afterwards (3 GB of disk). Each conversion runs in a
process of its own, in turn; its memory is the most that the process ever held, less what it held before it began.
On Linux that is read from /proc: what getrusage tells there is never less than what the parent held.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from helix_mlx.bench.output.command import Measured, measurement
from helix_mlx.bench.output.tables import Asked, table
from helix_mlx.bench.suite.kernels import TINYLLAMA

SHAPE: dict[str, Any] = {**TINYLLAMA, "torch_dtype": "bfloat16"}
SHARDS = 4
ROOM = 4 << 30
_BEFORE = """
import json, resource, sys, time
from pathlib import Path
source, out = sys.argv[1:]
"""
_AFTER = """
def held():
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM:"))
before, began = held(), time.perf_counter()
work()
print(json.dumps({"seconds": time.perf_counter() - began, "bytes": held() - before, "whole": held()}))
"""
PROGRAMS = {
    "helix": _BEFORE
    + """
from helix_mlx.convert.checkpoint import convert_checkpoint
from helix_mlx.convert.recipe import Recipe
def work():
    ignored = {"line": lambda _: None, "progress": lambda *_: None}
    convert_checkpoint(Path(source), Path(out), Recipe(), trust_remote_code=False, **ignored)
"""
    + _AFTER,
    "mlx-lm": _BEFORE
    + """
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
import contextlib, io
def work():
    with contextlib.redirect_stdout(io.StringIO()):
        model, config = load_model(Path(source), lazy=True)
        model, config = quantize_model(model, config, 64, 4)
    save_model(Path(out), model, donate_model=True)
    save_config(config, Path(out) / "config.json")
"""
    + _AFTER,
}
"""mlx-lm's side is what `mlx_lm.convert` does to the weights, without its tokenizer."""


def write_checkpoint(folder: Path) -> int:
    """A random checkpoint; returns the bytes of its largest file."""
    model: Any = llama.Model(llama.ModelArgs.from_dict(SHAPE))
    leaves: Any = tree_flatten(model.parameters())
    for number in range(SHARDS):
        part = {
            name: mx.random.normal(array.shape, key=mx.random.key(index)).astype(mx.bfloat16)
            for index, (name, array) in enumerate(leaves)
            if index % SHARDS == number
        }
        file = folder / f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        mx.save_safetensors(str(file), part, metadata={"format": "pt"})
        del part
        mx.clear_cache()
    (folder / "config.json").write_text(json.dumps(SHAPE))
    return max(file.stat().st_size for file in folder.glob("*.safetensors"))


def convert(name: str, source: Path, out: Path) -> dict[str, float]:
    """One conversion in a process of its own."""
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, "-c", PROGRAMS[name], str(source), str(out)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@measurement
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1), help="Conversions per side, in turn.")
def main(repeats: int) -> Measured:
    """Measure the time and memory of a conversion."""
    with tempfile.TemporaryDirectory(prefix="helix-mlx-conversion-") as temporary:
        folder = Path(temporary)
        if shutil.disk_usage(folder).free < ROOM:
            raise click.ClickException(f"{folder} has less than {ROOM / 1e9:.0f} GB free; set TMPDIR")
        source, out = folder / "source", folder / "out"
        source.mkdir()
        largest = write_checkpoint(source)
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
        quantised = 0
        for repeat in range(repeats):
            for name in [*PROGRAMS][:: -1 if repeat % 2 else 1]:
                figures[name].append(convert(name, source, out))
                quantised = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    medians = {
        name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]} for name, rows in figures.items()
    }
    click.echo(f"largest file {largest / 1e6:.0f} MB, quantised {quantised / 1e6:.0f} MB")
    rows = [
        [name, f"{m['seconds']:.1f}", f"{m['bytes'] / 1e6:.0f}", f"{m['whole'] / 1e6:.0f}"]
        for name, m in medians.items()
    ]
    table(["", "seconds", "MB for it", "MB of the process"], rows)
    bound = 1.3 * largest + quantised
    ratio = statistics.median(
        ours["seconds"] / theirs["seconds"] for ours, theirs in zip(figures["helix"], figures["mlx-lm"], strict=True)
    )
    most = max(row["bytes"] for row in figures["helix"])
    found = [
        Asked("peak memory", f"below {bound / 1e6:.0f} MB", f"{most / 1e6:.0f} MB", most < bound),
        Asked("seconds, by mlx-lm's", "at most 1", f"{ratio:.2f}", ratio <= 1.0),
    ]
    return figures, found
