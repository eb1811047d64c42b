"""A file or folder that is written beside its place is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event, Thread

import pytest

from helix_mlx.files import folder_beside, locked, write_beside


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(b"before")
    write_beside(file, b"after")
    assert file.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["one.json"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(b"before")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_beside(file, b"after")
    assert file.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["one.json"]


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o640), (0o600, 0o600), (0o644, 0o644)])
def test_a_file_has_the_mode_asked_for_or_that_of_any_new_file(tmp_path: Path, mode: int | None, expected: int) -> None:
    before = os.umask(0o027)
    try:
        write_beside(tmp_path / "one.json", b"", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "one.json").stat().st_mode & 0o777 == expected


def test_a_path_without_a_name_is_an_error_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"\.part"):
        write_beside(Path("."), b"")
    assert os.listdir(tmp_path) == []


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with folder_beside(tmp_path / "in" / "one", replace=True) as beside:
            (beside / "file").write_text(text)
    assert (tmp_path / "in" / "one" / "file").read_text() == "second"
    assert os.listdir(tmp_path / "in") == ["one"]


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_is_not_whole_leaves_what_was_there(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_text("before")

    def write() -> None:
        with folder_beside(tmp_path / "one", replace) as beside:
            (beside / "file").write_text("after")
            fail()

    with pytest.raises(OSError, match="No space left"):
        write()
    assert (tmp_path / "one" / "file").read_text() == "before"
    assert os.listdir(tmp_path) == ["one"]


def test_a_folder_is_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_text("before")
    with pytest.raises(OSError, match="one"), folder_beside(tmp_path / "one"):
        pass
    assert os.listdir(tmp_path) == ["one"]


def test_a_folder_is_worked_on_by_one_at_a_time_and_the_others_wait(tmp_path: Path) -> None:
    order: list[str] = []
    begun = Event()

    def second() -> None:
        begun.set()
        with locked(tmp_path / "new" / "folder"):
            order.append("second")

    thread = Thread(target=second)
    with locked(tmp_path / "new" / "folder"):
        thread.start()
        assert begun.wait(10)
        thread.join(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert list((tmp_path / "new").iterdir()) == []
