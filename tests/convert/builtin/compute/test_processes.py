from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from helix_mlx.convert.builtin.compute.processes import run_workers, worker_environment


class Worker:
    """A process that is started with words and an environment, and ends with a code."""

    started: list[tuple[list[str], dict[str, str]]]
    codes: list[int]

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.code = self.codes[len(self.started)]
        self.started.append((command, env))

    def wait(self) -> int:
        return self.code


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> type[Worker]:
    made = type("Made", (Worker,), {"started": [], "codes": [0, 0, 0]})
    monkeypatch.setattr(subprocess, "Popen", made)
    return made


def test_several_workers_find_each_other(worker: Any, tmp_path: Path) -> None:
    run_workers(["target", "--out", "x"], 3, tmp_path)
    assert [env["MLX_RANK"] for _, env in worker.started] == ["0", "1", "2"]
    assert all(command[-3:] == ["target", "--out", "x"] for command, _ in worker.started)
    (file,) = {env["MLX_HOSTFILE"] for _, env in worker.started}
    hosts = json.loads(Path(file).read_text())
    assert len({host for (host,) in hosts}) == 3


def test_one_worker_needs_no_others(worker: Any, tmp_path: Path) -> None:
    run_workers([], 1, tmp_path)
    ((_, environment),) = worker.started
    assert not {"MLX_RANK", "MLX_HOSTFILE"} & environment.keys() - set(os.environ)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_fails_is_told_when_all_have_ended(worker: Any, tmp_path: Path) -> None:
    worker.codes = [0, 7, 0]
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run_workers([], 3, tmp_path)
    assert failed.value.returncode == 7
    assert len(worker.started) == 3


def test_only_linux_changes_how_memory_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert worker_environment().keys() - set(os.environ) <= {"TOKENIZERS_PARALLELISM"}
