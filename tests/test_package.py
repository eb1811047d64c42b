"""What is shipped, and that the README tells the truth about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import helix_mlx
from helix_mlx import errors
from helix_mlx.cli.options import SETTINGS
from helix_mlx.cli.session.slash import COMMANDS
from helix_mlx.models.pairs import named_pairs
from helix_mlx.toml import read_toml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = read_toml(ROOT / "pyproject.toml")
TINY = ROOT / "helix_mlx" / "models" / "tiny"


def data_files() -> Iterator[Path]:
    """Every file of the package that is no Python, by its path in the package; the linked folders are followed."""
    for folder, _, names in os.walk(ROOT / "helix_mlx", followlinks=True):
        kept = (name for name in names if not name.endswith((".py", ".pyc")))
        yield from (Path(folder, name).relative_to(ROOT / "helix_mlx") for name in kept)


def is_shipped(file: Path) -> bool:
    """Whether a pattern of the package data takes a file along."""
    data = PROJECT["tool"]["setuptools"]["package-data"]
    if any(fnmatch(file.name, pattern) for pattern in data["*"]):
        return True
    for package, patterns in data.items():
        home = package.removeprefix("helix_mlx.").replace(".", "/")
        if file.is_relative_to(home):
            rest = str(file.relative_to(home))
            return any(fnmatch(rest, pattern.replace("**/", "")) for pattern in patterns)
    return False


def test_every_data_file_is_shipped() -> None:
    files = list(data_files())
    assert Path("py.typed") in files
    assert Path("models/pairs.toml") in files
    assert [str(file) for file in files if not is_shipped(file)] == []


def test_a_folder_without_init_would_not_be_shipped() -> None:
    walk = os.walk(ROOT / "helix_mlx", followlinks=True)
    with_code = {Path(folder) for folder, _, names in walk if any(name.endswith(".py") for name in names)}
    assert [str(folder) for folder in with_code if not (folder / "__init__.py").is_file()] == []


def test_the_version_has_one_home() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "helix_mlx.__version__"}
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {helix_mlx.__version__}\n" in changelog


def test_every_dependency_has_a_lower_bound_and_a_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for dependency in PROJECT["project"]["dependencies"]:
        assert ">=" in dependency
        assert re.search(re.escape(f'"{dependency}",') + r"  # \w", text), dependency


def test_the_built_in_pair_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in TINY.rglob("*") if file.is_file()) <= 10_000_000
    assert (TINY / "MODEL_CARD.md").is_file()


def test_the_readme_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
    assert "tokens read for the second turn" in capsys.readouterr().out


def test_the_readme_names_every_setting_and_command() -> None:
    table = README.partition("## Settings")[2].partition("\n## ")[0]
    for setting in SETTINGS:
        assert f"`{setting.word}`" in table
    for command in COMMANDS.values():
        name = command.usage.split()[0]
        assert f"`{name}" in README or name.endswith("!")


def test_the_readme_s_table_says_which_pair_is_for_which_memory() -> None:
    told = {
        name: int(size)
        for size, names in re.findall(r"^\| (\d+) GB \| (`.*`) \|$", README, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", names)
    }
    assert told == {pair.name: pair.ram_gb for pair in named_pairs() if not pair.packaged}


def test_the_readme_links_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
        assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_public_name_is_there_and_every_error_is_one_of_them() -> None:
    for name in helix_mlx.__all__:
        assert getattr(helix_mlx, name) is not None
    assert {"Request", "Handle", "Metrics"} <= set(helix_mlx.__all__) <= set(dir(helix_mlx))
    found = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert found <= set(helix_mlx.__all__)


def test_an_old_argument_says_what_it_is_called_now() -> None:
    old: Any = {"ladders": None}
    with pytest.raises(TypeError, match=r"load\(ladders=\) is now called cost_tables"):
        helix_mlx.load("tiny", **old)
    old = {"nothing": None}
    with pytest.raises(TypeError, match="unexpected keyword argument 'nothing'"):
        helix_mlx.load("tiny", **old)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("MemoryReport", "waste", "unused_fraction"),
        ("Metrics", "waste", "unused_fraction"),
        ("Engine", "ladder", "cost_table"),
    ],
)
def test_an_old_name_says_what_it_is_called_now(name: str, old: str, new: str) -> None:
    kind = getattr(helix_mlx, name)
    made = kind.__new__(kind)
    with pytest.raises(AttributeError, match=f"{name}.{old} is now called {new}"):
        getattr(made, old)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = made.nothing
