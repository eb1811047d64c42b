from __future__ import annotations

from pathlib import Path

import pytest

from helix_mlx.convert.builtin.data import corpus
from helix_mlx.convert.builtin.data.corpus import CodeFile, Question


def test_what_is_held_out_depends_on_the_name_alone() -> None:
    shares = [corpus.hash_share(f"name {number}") for number in range(500)]
    assert all(0 <= share < 1 for share in shares)
    assert sum(share < 0.5 for share in shares) == pytest.approx(250, abs=50)
    assert shares[0] == corpus.hash_share("name 0")
    questions = [Question("helix", "a page", f"What is page {number}?", "") for number in range(1000)]
    assert sum(map(corpus.is_held_out, questions)) == pytest.approx(100, abs=35)
    subjects = [Question("stdlib", f"module.f{number}", "What is it?", "") for number in range(1000)]
    assert sum(map(corpus.is_held_out, subjects)) == pytest.approx(30, abs=20)


def test_the_data_files_are_whole() -> None:
    about_helix = list(corpus.helix_questions())
    assert len(about_helix) > 100
    assert all(item.question.strip() and item.answer.strip() for item in about_helix)
    unknown = list(corpus.out_of_scope_questions())
    assert len({item.answer for item in unknown}) == 1
    assert not any("{}" in item.question for item in unknown)
    assert corpus.system_messages()


def test_tests_tables_and_other_alphabets_are_not_learnt() -> None:
    selection = corpus.read_selection()
    text = "x = 1\n" * 100
    assert selection.is_code(CodeFile("abc.py", text))
    assert not selection.is_code(CodeFile("abc.py", "x = 1\n"))
    assert not selection.is_code(CodeFile("abc.py", text + "é"))
    assert not selection.is_code(CodeFile("abc.py", text * 200))
    assert not selection.is_code(CodeFile(next(iter(selection.left_out_files)), text))


def test_the_parts_of_a_corpus_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a library of many small modules, in the place of this interpreter's."""
    left_out = next(iter(corpus.read_selection().left_out_folders))
    sources = {f"m{number}.py": number for number in range(120)} | {"json/__init__.py": 7}
    for name, number in (sources | {f"{left_out}/x.py": 0, "_sysconfigdata_x.py": 0}).items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        text = f'"""Work with the number {number}."""\ndef f{number}(x):\n    """Return the number {number}."""\n'
        file.write_text(text + "# filled up to be of middle size\n" * 20)
    monkeypatch.setattr(corpus, "standard_library", lambda: tmp_path)
    found = corpus.build_corpus()
    names = [file.name for file in (*found.code, *found.held_out_code)]
    assert sorted(names) == sorted(sources)
    assert found.held_out_code
    taught, held_out = ({item.question for item in part} for part in (found.questions, found.held_out_questions))
    assert not taught & held_out
    assert not taught & {item.question for item in found.unasked}
    assert "What does json.f7 do?" in taught | held_out
    assert "What does m3.f3 do?" in {item.question for item in found.unasked}
