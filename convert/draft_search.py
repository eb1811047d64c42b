"""Which drafts fit a target: those that Helix names and those on this machine, the most promising first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CacheNotFound, scan_cache_dir, snapshot_download

from helix_mlx.convert.source import check_repository, weight_bytes
from helix_mlx.errors import HelixError, ModelError, PairError, SettingsError
from helix_mlx.models.files import TOKENIZER_FILES
from helix_mlx.models.hub import hub_errors
from helix_mlx.models.manifest import read_manifest
from helix_mlx.models.pairs import converted_folders, named_pairs, source_path
from helix_mlx.models.text.tokenizer import Tokenizer
from helix_mlx.models.text.vocabulary import compare
from helix_mlx.types import Notice

LARGEST = 0.5
"""Of the target's bytes: a draft costs about its bytes, and one of half the target's cannot gain."""
BEST = 0.1
"""Of the target's bytes: smaller drafts foresee less, larger ones cost more."""
_KINDS = ("identical", "same ids", "shared", "unknown")


@dataclass(frozen=True)
class Suggestion:
    """A draft for a target.

    Args:
        draft: its folder or repository.
        bytes: of its weights, about.
        size: its bytes, as a share of the target's; None where the target's are not known.
        vocabulary: how it fits the target's: a `VocabularyMatch.kind`, or "unknown" where it cannot be fetched now.
        shared: the share of the draft's tokens that the target knows; None where that is unknown.
        named: whether a pair of Helix has just this target and this draft.
        tokens_per_cycle: measured with this target on this machine; None where it was not.
        here: whether it is on this machine.
    """

    draft: str
    bytes: int
    size: float | None
    vocabulary: str
    shared: float | None
    named: bool
    tokens_per_cycle: float | None
    here: bool


def suggest_drafts(target: str, line: Notice) -> list[Suggestion]:
    """Drafts whose vocabulary fits a target and that are small enough, the most promising first.

    Of models that are not on this machine the tokenizer is fetched, and nothing else.

    Args:
        target: a folder or a repository.
        line: is told what is fetched, and what cannot be.

    Raises:
        ModelError: the target is neither here nor can its tokenizer be fetched.
    """
    known = {pair.target: pair.target_bytes for pair in named_pairs()}
    folder = source_path(target)
    size = weight_bytes(folder) if folder else known.get(target)
    tokenizer = Tokenizer.load(folder or _tokenizer_folder(target, line), None)
    found = []
    for draft, about in _candidates(target).items():
        each = _judged(target, tokenizer, size, draft, about, line)
        if each is not None:
            found.append(each)
    if not found:
        raise SettingsError(
            f"no draft that fits {target} is known or on this machine; use --drafter ngram, which needs no draft"
        )
    return sorted(found, key=_rank)


def _candidates(target: str) -> dict[str, int]:
    """Models that might be drafts, and about how many bytes each has."""
    found: dict[str, int] = {}
    for pair in named_pairs():
        if pair.draft != "none":
            draft = str(source_path(pair.draft)) if pair.packaged else pair.draft
            found[draft] = pair.draft_bytes
    for folder in converted_folders():
        with suppress(HelixError):  # a damaged one is no candidate
            for model in read_manifest(folder).models:
                if model.source != target:  # the target itself, with fewer bits, is no small model
                    found[str(folder / model.role)] = weight_bytes(folder / model.role)
    for repository, folder in _cached():
        found.setdefault(repository, weight_bytes(folder))
    own = source_path(target)
    return {draft: size for draft, size in found.items() if draft != target and (not own or source_path(draft) != own)}


def _cached() -> Iterator[tuple[str, Path]]:
    """The models in the hub's cache that are whole, and where they lie."""
    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return
    for each in sorted(repositories, key=lambda each: each.repo_id):
        if each.repo_type == "model" and (folder := source_path(each.repo_id)) is not None:
            yield each.repo_id, folder


def _judged(
    target: str, tokenizer: Tokenizer, size: int | None, draft: str, about: int, line: Notice
) -> Suggestion | None:
    """A candidate beside the target; None where it is too large, or has too little in common."""
    share = about / size if size else None
    if share is not None and share > LARGEST:
        return None
    folder = source_path(draft)
    vocabulary, shared = "unknown", None
    try:
        match = compare(tokenizer, Tokenizer.load(folder or _tokenizer_folder(draft, line), None))
        vocabulary, shared = match.kind, match.share_of_draft
    except PairError:
        return None
    except ModelError as error:
        line(str(error))
    named = any((pair.target, pair.draft) == (target, draft) for pair in named_pairs())
    if vocabulary == "unknown" and not named:
        return None
    return Suggestion(draft, about, share, vocabulary, shared, named, _measured(target, draft), folder is not None)


def _rank(each: Suggestion) -> tuple[Any, ...]:
    """What was measured, then what Helix names, then vocabularies that fit best; and of like ones, sizes."""
    away = abs(each.size - BEST) if each.size is not None else each.bytes
    return (-(each.tokens_per_cycle or 0.0), not each.named, _KINDS.index(each.vocabulary), -(each.shared or 0.0), away)


def _measured(target: str, draft: str) -> float | None:
    """Tokens a cycle at temperature 0 that a converted pair of the two has in its manifest."""
    for folder in converted_folders():
        try:
            manifest = read_manifest(folder)
        except HelixError:
            continue
        ours = {manifest.target.source, str(folder / "target")}
        theirs = {manifest.draft.source if manifest.draft else "", str(folder / "draft")}
        if target in ours and draft in theirs:
            kept = (manifest.acceptance or {}).get("kept", [])
            with suppress(LookupError, TypeError):  # figures that somebody has changed are none
                rows = [row for row in kept if row["drafter"] == "model" and row["temperature"] == 0]
                if rows:
                    return float(sum(row["tokens_per_cycle"] for row in rows) / len(rows))
    return None


def _tokenizer_folder(repository: str, line: Notice) -> Path:
    """A folder with a repository's tokenizer.

    Raises:
        ModelError: it is no repository, or cannot be fetched.
    """
    check_repository(repository)
    line(f"Fetching the tokenizer of {repository}.")
    with hub_errors(repository):
        return Path(snapshot_download(repository, allow_patterns=["config.json", *TOKENIZER_FILES]))
