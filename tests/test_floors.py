"""The plan of the house, walked import by import: a file uses lower floors only, and everything stays small."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "helix_mlx"
FLOORS: tuple[set[str], ...] = (
    {"errors", "files", "config", "request", "thinking", "toml", "types"},
    {"kernels", "sampling"},
    {"recurrent"},
    {"paging"},
    {"models"},
    {"speculative"},
    {"engine"},
    {"convert", "bench"},
    {"cli", "server"},
)
ENGINE_FLOORS: tuple[set[str], ...] = (
    {"handle", "metrics"},
    {"scheduling"},
    {"memory"},
    {"execution"},
    {"requests", "core", "streaming", "conversation"},
    {"engine", "acceptance_counts"},
)
"""Rooms and files of `engine/`. Within one of these floors imports go in one direction, too."""
LINKS = ("convert", "bench")
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS, MAX_FOLDER = 400, 60, 8, 10
MACHINE_PATH = re.compile("|".join(f"/{folder}/[a-z]" for folder in ("home", "Users", "root", "work")))


def sources(root: Path) -> Iterator[Path]:
    """Every Python file under the project's own folders, each once: links are not followed."""
    for top in (PACKAGE, *LINKS, "tests", "docs"):
        for folder, _, names in os.walk(root / top):
            yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


def noun(file: Path, root: Path) -> str:
    """What a file belongs to: a folder of the package, `errors` and the like at its root, or `tests`."""
    parts = file.relative_to(root).with_suffix("").parts
    return parts[1] if parts[0] == PACKAGE else parts[0]


def floor(name: str) -> int:
    """The floor that a noun is on; what is on none is above them all."""
    return next((level for level, names in enumerate(FLOORS) if name in names), len(FLOORS))


def imports(tree: ast.AST) -> Iterator[tuple[int, str, int]]:
    """Line, module and relative level of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = node.module == PACKAGE
            names = [f"{PACKAGE}.{alias.name}" for alias in node.names] if inside else [node.module or ""]
            yield from ((node.lineno, name, node.level) for name in names)


def may_import(user: str, used: str) -> bool:
    """Whether a noun may import another."""
    if used == user or used.startswith("__"):
        return True
    same_ground = floor(user) == floor(used) == 0
    return same_ground or floor(used) < floor(user)


def violations(root: Path) -> list[str]:
    """Every import that goes up or sideways, is relative, or takes a linked folder by its other name."""
    found = []
    for file in sources(root):
        for line, module, level in imports(ast.parse(file.read_text(encoding="utf-8"))):
            where = f"{file.relative_to(root)}:{line}"
            first, _, rest = module.partition(".")
            if level:
                found.append(f"{where} imports relatively")
            elif first in LINKS:
                found.append(f"{where} imports {module}, which is {PACKAGE}.{module}")
            elif first == PACKAGE and rest and noun(file, root) not in ("__init__", "tests", "docs"):
                used = rest.split(".")[0]
                if not may_import(noun(file, root), used):
                    found.append(f"{where} imports {module}, which is no lower floor")
    return found


def engine_modules(root: Path) -> dict[str, set[str]]:
    """The modules of `engine/`, each with those of them that it imports."""
    found = {}
    for file in (root / PACKAGE / "engine").rglob("*.py"):
        name = ".".join(file.relative_to(root / PACKAGE / "engine").with_suffix("").parts)
        used = {module for _, module, _ in imports(ast.parse(file.read_text(encoding="utf-8")))}
        prefix = f"{PACKAGE}.engine."
        found[name] = {module.removeprefix(prefix) for module in used if module.startswith(prefix)}
    return found


def circular(modules: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, over any number of others."""
    left = {name: set(used) & modules.keys() for name, used in modules.items()}
    while free := [name for name, used in left.items() if not used & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def too_large(root: Path) -> list[str]:
    """Every file and function that has outgrown its limit."""
    found = []
    for file in sources(root):
        text, name = file.read_text(encoding="utf-8"), file.relative_to(root)
        if (lines := text.count("\n")) > MAX_FILE:
            found.append(f"{name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            assert node.end_lineno is not None
            if (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION:
                found.append(f"{name}:{node.lineno} {node.name} has {lines} lines")
            if (count := parameters(node)) > MAX_PARAMETERS:
                found.append(f"{name}:{node.lineno} {node.name} has {count} parameters")
    return found


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in every)


def test_a_file_imports_lower_floors_only() -> None:
    assert violations(ROOT) == []


def test_the_engine_has_six_floors_and_no_circle() -> None:
    modules = engine_modules(ROOT)
    floors = {room: level for level, rooms in enumerate(ENGINE_FLOORS) for room in rooms}
    for name, used in modules.items():
        for other in used:
            rooms = name.split(".")[0], other.split(".")[0]
            if "__init__" not in rooms and rooms[0] != rooms[1]:
                assert floors[rooms[1]] <= floors[rooms[0]], f"{name} imports {other}, which is above it"
    assert circular(modules) == []
    assert circular({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert len(ENGINE_FLOORS) <= 6


def test_everything_is_small() -> None:
    assert too_large(ROOT) == []


def test_a_folder_has_ten_files_at_most() -> None:
    folders: dict[Path, int] = {}
    for file in sources(ROOT):
        if file.name != "__init__.py" and file.relative_to(ROOT).parts[0] not in ("tests", "docs"):
            folders[file.parent] = folders.get(file.parent, 0) + 1
    assert {str(folder): count for folder, count in folders.items() if count > MAX_FOLDER} == {}


def test_every_folder_of_the_package_has_a_floor() -> None:
    folders = {file.parent.name for file in (ROOT / PACKAGE).glob("*/__init__.py")}
    assert folders <= set().union(*FLOORS)


@pytest.mark.parametrize("name", LINKS)
def test_links_are_relative_and_lead_to_the_top_level_folder(name: str) -> None:
    link = ROOT / PACKAGE / name
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name
    assert (link / "__init__.py").is_file()


def test_the_package_imports_nothing_when_it_is_imported() -> None:
    tree = ast.parse((ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_import = [module for node in tree.body for _, module, _ in imports(node) if not isinstance(node, ast.If)]
    assert set(at_import) <= {"__future__", "importlib", "typing"}


def test_no_file_names_a_place_on_a_machine() -> None:
    named = [str(file) for file in sources(ROOT) if MACHINE_PATH.search(file.read_text(encoding="utf-8"))]
    assert named == []


PLANTED = {
    "helix_mlx/paging/pool.py": "from helix_mlx.engine.engine import load\n",
    "helix_mlx/kernels/one.py": "import helix_mlx.sampling.filters\n",
    "helix_mlx/engine/one.py": "def late():\n    from helix_mlx import cli\n",
    "helix_mlx/models/one.py": "from . import pairs\n",
    "tests/test_one.py": "import convert.builtin\n",
}
ALLOWED = {
    "helix_mlx/config.py": "from helix_mlx.errors import SettingsError\nfrom helix_mlx.request import Stats\n",
    "helix_mlx/engine/one.py": "from helix_mlx.engine.core import EngineCore\nfrom helix_mlx.paging.tail import Tail\n",
    "helix_mlx/cli/one.py": "from helix_mlx import __version__\nimport helix_mlx.engine.engine\n",
    "tests/test_one.py": "from helix_mlx.convert import quantization\n",
}


def plant(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True)
    (root / name).write_text(text)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_import_is_found(tmp_path: Path, name: str) -> None:
    plant(tmp_path, name, PLANTED[name])
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize("name", ALLOWED)
def test_an_import_of_a_lower_floor_is_no_violation(tmp_path: Path, name: str) -> None:
    plant(tmp_path, name, ALLOWED[name])
    assert violations(tmp_path) == []


def test_a_planted_giant_is_found(tmp_path: Path) -> None:
    body = "    pass\n" * MAX_FUNCTION
    plant(tmp_path, "helix_mlx/engine/one.py", f"def giant(a, b, c, d, e, f, g, h, i):\n{body}" + "\n" * MAX_FILE)
    assert len(too_large(tmp_path)) == 3
