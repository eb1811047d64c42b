from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from helix_mlx.convert.file_lock import exclusively
from helix_mlx.errors import ModelError, SettingsError

HOLD = """
import sys
from pathlib import Path
from helix_mlx.convert.file_lock import exclusively
with exclusively(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_made_by_one_process_at_a_time(tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "pair"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(SettingsError, match="another process is writing"), exclusively(out):
        pass
    with exclusively(tmp_path / "deeper" / "other"):
        pass
    other.kill()  # who dies lets go
    other.communicate()
    with exclusively(out):
        pass
    assert not list(out.parent.iterdir())


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot write"), exclusively(tmp_path / "file" / "pair"):
        pass


def test_a_folder_that_was_put_in_place_meanwhile_is_seen(tmp_path: Path) -> None:
    with exclusively(tmp_path / "pair"):
        (tmp_path / "pair").mkdir()
    with pytest.raises(SettingsError, match="already exists"), exclusively(tmp_path / "pair"):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["pair"]
