"""From two models to one folder that every command takes by name; nothing half-made is ever where one would load it."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helix_mlx import __version__
from helix_mlx.convert.checkpoint import convert_checkpoint
from helix_mlx.convert.file_lock import exclusively
from helix_mlx.convert.recipe import Recipe
from helix_mlx.convert.source import Source, find_source
from helix_mlx.errors import ModelError, SettingsError
from helix_mlx.models.files import check_room
from helix_mlx.models.manifest import ConvertedModel, Manifest, hashed_files
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.models.text.vocabulary import compare
from helix_mlx.types import Notice, StepProgress

DONE = "done.json"
"""Beside a model in the folder that is being made: what it was made of, so that the next try takes it over."""


@dataclass(frozen=True)
class Wanted:
    """What to convert.

    Args:
        target, draft: folders or repositories; a draft is not needed.
        out: the folder to make.
        recipe, draft_recipe: what is done to the weights of each.
        revision, draft_revision: of repositories.
        trust_remote_code: run code that a model brings.
        endpoint: the hub's address; None takes the usual one.
    """

    target: str
    draft: str | None
    out: Path
    recipe: Recipe
    draft_recipe: Recipe
    revision: str | None = None
    draft_revision: str | None = None
    trust_remote_code: bool = False
    endpoint: str | None = None


def convert_pair(wanted: Wanted, line: Notice, progress: StepProgress) -> Manifest:
    """Fetch, check that they belong together, quantise, hash, and put the folder in its place.

    An interruption keeps what is whole, beside; the same call goes on from there.

    Raises:
        HelixError: as `find_source` and `convert_checkpoint`; or the folder exists, another process is making it, or
            the vocabularies do not fit.
    """
    with exclusively(wanted.out):
        return _convert(wanted, line, progress)


def _convert(wanted: Wanted, line: Notice, progress: StepProgress) -> Manifest:
    found = {"target": _find(wanted, wanted.target, wanted.revision, line)}
    if wanted.draft is not None:
        found["draft"] = _find(wanted, wanted.draft, wanted.draft_revision, line)
    vocabulary = _vocabulary(found)
    recipes = {"target": wanted.recipe, "draft": wanted.draft_recipe}
    beside, keep = wanted.out.with_name(f".{wanted.out.name}.part"), False
    try:
        beside.mkdir(parents=True, exist_ok=True)
        left = [role for role in found if not (beside / f"{role}-{DONE}").exists()]
        expected = sum(_expected_bytes(found[role], recipes[role]) for role in left)
        check_room(beside, expected, "the converted pair")
        models = tuple(
            _converted(beside / role, source, recipes[role], wanted, line, progress) for role, source in found.items()
        )
        hashed = hashed_files(beside, lambda done, total: progress("hashing", done, total))
        notes = [f"{role}-{DONE}" for role in found]
        files = {path: each for path, each in hashed.items() if path not in notes}
        for note in notes:
            (beside / note).unlink()
        manifest = Manifest(models, files, __version__, vocabulary)
        manifest.write(beside)
        os.rename(beside, wanted.out)
    except OSError as error:
        raise ModelError(f"cannot write {wanted.out}: {error.strerror or error}; choose another --out") from error
    except KeyboardInterrupt:
        keep = True  # what is whole by now is taken over by the next try; a mistake leaves nothing behind
        raise
    finally:
        if not keep:
            shutil.rmtree(beside, ignore_errors=True)
    return manifest


def out_folder(out: str, pairs_folder: Path) -> Path:
    """Where `--out` points to: a plain name lies among the user's pairs, anything else is a folder.

    Raises:
        SettingsError: the name is none.
    """
    if "/" in out or "\\" in out:
        folder = Path(out).expanduser()
        if ".." in folder.parts:
            raise SettingsError(f"out is {out}, which leads upwards; give the folder itself")
        return folder
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", out):
        raise SettingsError(f"out is {out!r}, but names may only have letters, digits, dots, dashes and underscores")
    return pairs_folder / out


def _find(wanted: Wanted, name: str, revision: str | None, line: Notice) -> Source:
    return find_source(
        name, revision=revision, trust_remote_code=wanted.trust_remote_code, line=line, endpoint=wanted.endpoint
    )


def _vocabulary(found: dict[str, Source]) -> dict[str, Any] | None:
    """How the vocabularies fit; None without a draft.

    Raises:
        PairError: they do not, which is told before hours of work.
    """
    if "draft" not in found:
        return None
    target, draft = (Tokenizer.load(found[role].folder, None) for role in ("target", "draft"))
    return compare(target, draft).to_json()


def _expected_bytes(source: Source, recipe: Recipe) -> int:
    """About what the converted weights take, told before the work; `convert_checkpoint` knows it to the byte."""
    return int(min(1.0, recipe.bytes_per_weight / 2 + 0.1) * source.weight_bytes)


def _converted(
    folder: Path, source: Source, recipe: Recipe, wanted: Wanted, line: Notice, progress: StepProgress
) -> ConvertedModel:
    """Convert a model into its folder, which has its role's name, or find it there whole from a try before."""
    role = folder.name
    note = folder.with_name(f"{role}-{DONE}")
    made_of = {
        "source": str(source.folder),
        "revision": source.revision,
        "modified": max(file.stat().st_mtime_ns for file in source.folder.iterdir()),
        "recipe": asdict(recipe),
        "helix": __version__,
    }
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if known.get("made_of") == made_of and folder.is_dir():
        quantization = known["quantization"]
    else:
        shutil.rmtree(folder, ignore_errors=True)
        quantization = convert_checkpoint(
            source.folder, folder, recipe, trust_remote_code=wanted.trust_remote_code, line=line,
            progress=lambda done, total: progress(f"converting the {role}", done, total),
        )  # fmt: skip
        note.write_text(json.dumps({"made_of": made_of, "quantization": quantization}), encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return ConvertedModel(role, source.name, source.revision, quantization, size)
