"""Models that are on this machine already: GGUF files, and those of Ollama and LM Studio. Does not import MLX."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from helix_mlx.errors import ModelError, did_you_mean
from helix_mlx.models.third_party import guarded

OLLAMA = "ollama:"
"""Begins the name of a model that Ollama has fetched, such as `ollama:llama3.2:1b`."""
LM_STUDIO = "lmstudio:"
"""Begins the name of a model that LM Studio has fetched: publisher and model, and a file where there are several."""
SUFFIX = ".gguf"
_REGISTRY, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
"""What Ollama takes where a name does not say."""
_MODEL_LAYER = "application/vnd.ollama.image.model"
_ADAPTER_LAYER = "application/vnd.ollama.image.adapter"
_PROJECTOR = "mmproj"
"""Begins the names of files that hold the part of a model for images."""
_LM_STUDIO_FOLDERS = (".lmstudio/models", ".cache/lm-studio/models")
"""Where LM Studio keeps its models, now and before."""


def local_model(source: str) -> Path | None:
    """The GGUF file that a source means, or the folder of an MLX model that LM Studio has.

    Args:
        source: a file, a folder with one GGUF model and nothing else, or a name that begins with OLLAMA or LM_STUDIO.

    Returns:
        None for whatever else may be a model.

    Raises:
        ModelError: it is one of these, and not there.
    """
    if source.startswith(OLLAMA):
        return ollama_model(source.removeprefix(OLLAMA))
    if source.startswith(LM_STUDIO):
        return _lm_studio_model(source.removeprefix(LM_STUDIO))
    path = os.path.expanduser(source)  # unlike Path's own, it lets "~nobody" be
    if os.path.isfile(path):  # unlike Path's, it takes names too long to be
        return Path(path)
    if os.path.isdir(path):
        folder = Path(path)
        return None if (folder / "config.json").is_file() or not _models_in(folder) else _only_model(folder)
    if source.endswith(SUFFIX):
        raise ModelError(f"there is no file {source}; check the name, or download it")
    return None


def ollama_model(name: str, models: Path | None = None) -> Path:
    """The file of a model that Ollama has fetched.

    Args:
        name: as Ollama has it: `llama3.2`, `llama3.2:1b`, `someone/model:tag` or `hf.co/someone/model:tag`.
        models: Ollama's folder of models; None takes the usual one.

    Raises:
        ModelError: it has no such model, or it is none that stands alone.
    """
    models = models or _home() / ".ollama" / "models"
    manifests = models / "manifests"
    plain, _, tag = name.partition(":")
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    owner = {1: [_REGISTRY, _NAMESPACE], 2: [_REGISTRY]}.get(len(parts), [])
    manifest = manifests.joinpath(*owner, *parts, tag or _TAG)
    if not 1 <= len(parts) <= 3 or "/" in tag or not manifest.is_file():
        known = _ollama_names(manifests)
        there = f"; it has {', '.join(known[:8])}{' and more' if len(known) > 8 else ''}" if known else ""
        raise ModelError(
            f"Ollama has no model {name} in {models}{did_you_mean(name, known)}{there}; run: ollama pull {name}"
        )
    with guarded(f"cannot read {manifest}", f"run: ollama pull {name}"):
        layers: list[dict[str, Any]] = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
        digests = [str(layer["digest"]) for layer in layers if layer["mediaType"] == _MODEL_LAYER]
        adapted = any(layer["mediaType"] == _ADAPTER_LAYER for layer in layers)
    if adapted or len(digests) != 1 or "/" in digests[0]:
        raise ModelError(f"Ollama's {name} is not a single GGUF file, which Helix needs; choose another model")
    blob = models / "blobs" / digests[0].replace(":", "-")
    if not blob.is_file():
        raise ModelError(f"Ollama's {name} is missing its file {blob}; run: ollama pull {name}")
    return blob


def _ollama_names(manifests: Path) -> list[str]:
    """The models that Ollama has, as it names them."""
    names = []
    for file in sorted(manifests.glob("*/*/*/*")):
        host, namespace, model, tag = file.relative_to(manifests).parts
        owner = "" if (host, namespace) == (_REGISTRY, _NAMESPACE) else f"{namespace}/"
        names.append(f"{'' if host == _REGISTRY else f'{host}/'}{owner}{model}{'' if tag == _TAG else f':{tag}'}")
    return names


def _lm_studio_model(name: str) -> Path:
    folders = [_home() / folder for folder in _LM_STUDIO_FOLDERS]
    for folder in folders:
        path = folder / name
        if not name or ".." in Path(name).parts:
            break
        if path.is_file():
            return path
        if (path / "config.json").is_file():
            return path
        if path.is_dir() and _models_in(path):
            return _only_model(path)
    known = [
        str(each.relative_to(folder)) for folder in folders if folder.is_dir() for each in sorted(folder.glob("*/*"))
    ]
    there = f"; it has {', '.join(known[:8])}{' and more' if len(known) > 8 else ''}" if known else ""
    raise ModelError(
        f"LM Studio has no model {name} in {folders[0]}{did_you_mean(name, known)}{there}; "
        "download it there, or give the path of its file"
    )


def _models_in(folder: Path) -> list[Path]:
    """The GGUF models in a folder; of a split one, the first part."""
    found = sorted(each for each in folder.glob(f"*{SUFFIX}") if not each.name.startswith(_PROJECTOR))
    return [each for each in found if "-of-" not in each.name or "-00001-of-" in each.name] or found[:1]


def _only_model(folder: Path) -> Path:
    found = _models_in(folder)
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:6])
        raise ModelError(f"{folder} has several GGUF models ({names}); give the path of one of them")
    return found[0]


def _home() -> Path:
    """The user's home; without one, a folder that cannot be."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(os.devnull)
