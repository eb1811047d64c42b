from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helix_mlx.cli.console.terminal import human_bytes
from helix_mlx.models.pairs import NamedPair, named_pairs, source_path
from tests.cli.conftest import Run


def test_the_table_names_every_pair_and_how_to_fetch_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_mlx.cli.pairs.converted_folders", list)
    result = run("pairs")
    assert result.exit_code == 0
    for pair in named_pairs():
        assert f"\n{pair.name} " in result.stdout
    assert "helix-mlx pairs --fetch NAME" in result.stdout
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_what_this_machine_cannot_hold_comes_last(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_mlx.cli.pairs.machine_memory", lambda: 16 << 30)
    first, told, last = run("pairs").stdout.partition("\nToo large for the 16 GB of this machine:\n")
    assert told
    assert re.findall(r"^(\S+) +(?:8|16) GB ", first, re.MULTILINE)[0] == "tiny"
    assert "\nqwen3-14b " in first
    assert "\nqwen3-32b " in last
    rows = json.loads(run("pairs", "--json").stdout)
    assert [row["memory_bytes"] for row in rows] == sorted(row["memory_bytes"] for row in rows)
    for row in rows:
        assert row["fits"] == (row["ram_gb"] <= 16) == (f"{row['name']} " in first)


def test_where_all_fit_nothing_is_said_of_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helix_mlx.cli.pairs.machine_memory", lambda: 128 << 30)
    assert "Too large" not in run("pairs").stdout


def test_what_is_special_about_a_pair_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = NamedPair("alone", "org/big", "none", 200 * 10**9, 0, "4 bit", False, "MIT", True, unverified=True)
    monkeypatch.setattr("helix_mlx.cli.pairs.named_pairs", lambda: [alone])
    table = run("pairs").stdout
    assert "alone  > 128 GB  200.0 GB  n-gram  no\n  org/big\n  4 bit (MIT, unverified; gated: accept" in table
    assert "Unverified: " in table


def test_json_lists_every_pair(run: Run) -> None:
    rows = {row["name"]: row for row in json.loads(run("pairs", "--json").stdout)}
    assert rows["tiny"]["packaged"] is True
    assert (rows["tiny"]["unverified"], rows["qwen3-8b"]["unverified"]) == (False, True)
    assert rows["qwen3-8b"]["draft"] == "mlx-community/Qwen3-0.6B-4bit"
    told = {"target_bytes", "draft_bytes", "kv_bytes_per_position", "on_disk", "fetch", "licence", "gated", "note"}
    assert told <= set(rows["tiny"])


@pytest.mark.parametrize(("count", "text"), [(4_530_000_000, "4.5 GB"), (351_000_000, "351 MB"), (4_440_000, "4.4 MB")])
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_fetch_brings_target_and_draft(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(source: str, *_: object) -> Path:
        fetched.append(source)
        return Path("cache") / source

    monkeypatch.setattr("helix_mlx.models.loader.fetch", fetch)
    result = run("pairs", "--fetch", "qwen3-8b")
    assert dict.fromkeys(fetched) == dict.fromkeys(["mlx-community/Qwen3-8B-4bit", "mlx-community/Qwen3-0.6B-4bit"])
    assert "helix-mlx chat --pair qwen3-8b" in result.stdout


def test_of_a_target_alone_the_target_is_fetched(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("helix_mlx.models.loader.fetch", lambda source, *_: fetched.append(source))
    assert run("pairs", "--fetch", "lfm2.5-2.6b").exit_code == 0
    assert fetched[:1] == ["LiquidAI/LFM2.5-2.6B-MLX-4bit"]


def test_a_setting_of_the_hub_s_client_that_means_nothing_is_one_line() -> None:
    environment = {**os.environ, "HF_HUB_DOWNLOAD_TIMEOUT": "soon"}
    words = [sys.executable, "-c", "from helix_mlx.cli import main; main()", "pairs"]
    run = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("Error: cannot import huggingface_hub: ")
    assert len(run.stderr.splitlines()) == 1


def test_list_is_a_word_for_the_list(run: Run) -> None:
    assert run("pairs", "list").stdout == run("pairs").stdout
    assert (
        run("pairs", "list", "--json").stdout == run("pairs", "--json").stdout == run("pairs", "--json", "list").stdout
    )


def test_the_built_in_pair_is_verified_too(run: Run) -> None:
    result = run("pairs", "verify", "tiny")
    assert result.exit_code == 0
    assert result.stdout == "tiny is built in: all 12 files are readable and complete.\n"


@pytest.mark.parametrize(
    ("file", "data", "told"),
    [
        ("model.safetensors", None, "is missing"),
        ("model.safetensors", b"", "is damaged"),
        ("model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "is damaged"),
        ("config.json", b"{", "is damaged"),
        ("tokenizer.json", b"\xff", "is damaged"),
    ],
)
def test_a_built_in_pair_that_is_not_whole_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, data: bytes | None, told: str
) -> None:
    whole = source_path("builtin:tiny/target")
    assert whole is not None
    shutil.copytree(whole, tmp_path / "target")
    (tmp_path / "target" / file).unlink()
    if data is not None:
        (tmp_path / "target" / file).write_bytes(data)
    monkeypatch.setattr("helix_mlx.cli.pairs.source_path", lambda source: tmp_path / "target")
    result = run("pairs", "verify", "tiny")
    assert result.exit_code == 2
    assert result.stderr.endswith(f"{file} {told}; reinstall Helix\n")


def test_weights_that_are_cut_off_are_seen(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = source_path("builtin:tiny/draft")
    assert whole is not None
    shutil.copytree(whole, tmp_path / "draft")
    weights = tmp_path / "draft" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setattr("helix_mlx.cli.pairs.source_path", lambda source: tmp_path / "draft")
    assert "model.safetensors is damaged" in run("pairs", "verify", "tiny").stderr
