"""The named pairs, and where models are on disk. Does not import MLX, so that listings are fast."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helix_mlx.errors import SettingsError, did_you_mean
from helix_mlx.models.files import holds_model
from helix_mlx.models.manifest import NAME as MANIFEST
from helix_mlx.models.manifest import check_files, read_manifest
from helix_mlx.models.sources.wheel import WHEEL, find_wheel
from helix_mlx.models.third_party import importing
from helix_mlx.toml import read_toml

DEMONSTRATION = "tiny"
"""The built-in pair, which needs no network."""
DEFAULT = "smollm2-135m"
"""The pair of a chat where nothing is named."""
BUILTIN = "builtin:"
"""Begins the name of a model that is part of the package; what follows is a folder beside this file."""
CONTEXT = 8192
"""Tokens of a conversation that a pair should have memory for beside its weights."""
USABLE = 0.75
"""Of a machine's memory: the rest is the system's. A Mac lets its GPU have about as much."""
RAM_SIZES = (8, 16, 32, 64, 128)
"""Memories that Macs are sold with, in units of 2^30 bytes."""


@dataclass(frozen=True)
class NamedPair:
    """A row of `pairs.toml`, which says what is what. `packaged` tells the pair that comes with Helix, `converted` one
    made here; `head`, one without a draft model whose target has a prediction head. Where `kv_bytes_per_position` is
    None, nothing is known of it. `target_else` is a second place where the target can be had.
    """

    name: str
    target: str
    draft: str
    target_bytes: int
    draft_bytes: int
    note: str
    packaged: bool
    licence: str
    gated: bool
    converted: bool = False
    kv_bytes_per_position: int | None = None
    unverified: bool = False
    head: bool = False
    target_else: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Where the target can be had, in the order to try."""
        return (self.target,) if self.target_else is None else (self.target, self.target_else)

    @property
    def target_here(self) -> str | None:
        """The first of these that is on this machine; None where none is."""
        return next((source for source in self.targets if source_path(source) is not None), None)

    @property
    def memory_bytes(self) -> int:
        """What it takes: the weights of both, and the keys and values of CONTEXT tokens."""
        return self.target_bytes + self.draft_bytes + CONTEXT * (self.kv_bytes_per_position or 0)

    @property
    def ram_gb(self) -> int | None:
        """The smallest of RAM_SIZES that it fits; None where it fits none."""
        return next((size for size in RAM_SIZES if fits(self, size << 30)), None)


def fits(pair: NamedPair, memory: int) -> bool:
    """Whether a machine of so many bytes of memory holds a pair: it takes USABLE of them at most."""
    return pair.memory_bytes <= USABLE * memory


def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def named_pairs() -> list[NamedPair]:
    """All named pairs, in the order to show them."""
    return [_named_pair(row) for row in read_toml(_folder() / "pairs.toml")["pair"]]


def named_pair(name: str) -> NamedPair:
    """The pair of a name: one of the table, or a converted one by its name or its folder.

    Raises:
        SettingsError: there is none; the message lists the names.
        PairError: it is a converted one, and its files are not what was written.
    """
    pairs = {pair.name: pair for pair in named_pairs()}
    if name in pairs:
        return pairs[name]
    folder = converted_folder(name)
    if folder is None:
        names = [*pairs, *(each.name for each in converted_folders())]
        raise SettingsError(
            f"there is no pair named {name}{did_you_mean(name, names)}; "
            f"the pairs are {', '.join(names)} (or use --target)"
        )
    return converted_pair(name, folder)


def pairs_folder() -> Path:
    """Where this user's converted pairs lie; without a home, a folder that cannot be."""
    try:
        return Path.home() / ".helix" / "pairs"
    except RuntimeError:
        return Path(os.devnull) / "pairs"


def converted_folders() -> list[Path]:
    """The folders of this user's converted pairs, by name."""
    folder = pairs_folder()
    return sorted(each.parent for each in folder.glob(f"[!.]*/{MANIFEST}")) if folder.is_dir() else []


def converted_folder(name: str) -> Path | None:
    """The folder of a converted pair, by its name or its path; None where there is none."""
    plain = name and "/" not in name and "\\" not in name and not name.startswith(".")
    for folder in (pairs_folder() / name if plain else None, Path(os.path.expanduser(name))):
        if folder is not None and os.path.isfile(folder / MANIFEST):  # unlike Path's, it takes names too long to be
            return folder
    return None


def converted_pair(name: str, folder: Path) -> NamedPair:
    """A converted pair, whose files are there and of their sizes.

    Raises:
        PairError: they are not, or the manifest is damaged.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    target, draft = manifest.target, manifest.draft
    made_of = f"{target.source} and {draft.source}" if draft else target.source
    return NamedPair(
        name=name,
        target=str(folder / "target"),
        draft=str(folder / "draft") if draft else "none",
        target_bytes=target.bytes,
        draft_bytes=draft.bytes if draft else 0,
        note=f"converted from {made_of}",
        packaged=False,
        licence="as its models'",
        gated=False,
        converted=True,
        kv_bytes_per_position=_kv_bytes(folder / "target", *([folder / "draft"] if draft else [])),
        head=draft is None and manifest.holds_head,
    )


def source_path(source: str) -> Path | None:
    """The folder that holds a model on this machine, or None where it has to be fetched first.

    A download that broke off does not count: it would be taken for the model forever.

    Args:
        source: a built-in model, a folder, a wheel, or a repository on the hub.
    """
    if source == "none":
        return None
    if source.startswith(WHEEL):
        wheel = find_wheel(source)
        return wheel.folder if wheel is not None and holds_model(wheel.folder) else None
    if source.startswith(BUILTIN):
        folder = _folder() / source.removeprefix(BUILTIN)
        return folder if folder.is_dir() else None
    folder = Path(os.path.expanduser(source))  # unlike Path's own, it lets "~nobody" be
    if source and os.path.isdir(folder):  # unlike Path's, it takes names too long to be
        return folder
    cached = _cached_path(source)
    return cached if cached is not None and holds_model(cached) else None


def _folder() -> Path:
    return Path(__file__).parent


def _named_pair(row: dict[str, Any]) -> NamedPair:
    packaged = row["target"].startswith(BUILTIN)
    told: dict[str, Any] = {
        f"{role}_bytes": _size_on_disk(row[role]) for role in ("target", "draft") if f"{role}_bytes" not in row
    }
    if packaged:
        folders = [source_path(row[role]) for role in ("target", "draft")]
        told["kv_bytes_per_position"] = _kv_bytes(*(folder for folder in folders if folder is not None))
    return NamedPair(**row, **told, packaged=packaged)


def _size_on_disk(source: str) -> int:
    folder = source_path(source)
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) if folder else 0


def _kv_bytes(*folders: Path) -> int | None:
    """Bytes in 16 bit of the keys and values of a position, of models together, by their configurations.

    At most so many: every layer is taken for one of attention. None where a configuration does not say.
    """
    total = 0
    for folder in folders:
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config = {**config, **(config.get("text_config") or {})}
            heads = config["num_attention_heads"]
            width = config.get("head_dim") or config["hidden_size"] // heads
            total += 4 * int(config["num_hidden_layers"] * (config.get("num_key_value_heads") or heads) * width)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return None
    return total


def _cached_path(repository: str) -> Path | None:
    """The folder of the hub's cache that has a repository's config.json, as of the last time it was fetched.

    The hub's own way to ask for a whole repository counts files that nobody fetches, such as its README.
    """
    # Imported here: it takes longer than everything else in a listing together.
    with importing("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(repository, "config.json")
    except (OSError, ValueError):  # no name of a repository, or a cache that cannot be read
        return None
    return Path(config).parent if isinstance(config, str) else None
