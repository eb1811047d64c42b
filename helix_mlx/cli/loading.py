"""Load an engine from a command's options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from helix_mlx.cli.console.progress import ProgressBar, ticking
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.options import Options, engine_config
from helix_mlx.errors import ModelError, SettingsError
from helix_mlx.models.pairs import (
    DEFAULT,
    DEMONSTRATION,
    converted_folder,
    converted_folders,
    named_pair,
    named_pairs,
    source_path,
)
from helix_mlx.models.sources.local import LM_STUDIO, OLLAMA, SUFFIX, local_model, ollama_model
from helix_mlx.models.sources.wheel import WHEEL
from helix_mlx.models.third_party import importing

if TYPE_CHECKING:
    from helix_mlx.cli.session.repl import ChatEngine
    from helix_mlx.engine.engine import Engine


def open_engine(options: Options, terminal: Terminal) -> Engine:
    """Load the pair that the options name.

    Raises:
        HelixError: a setting is out of range, or a model cannot be loaded.
    """
    config = engine_config(options)
    pair, target, draft = chosen(options)
    notice = partial(_tell, terminal)
    if target is None:
        pair = _fetched(pair, terminal)
    waiting = ticking(terminal, f"Loading {target or pair}")
    with waiting if _is_here(pair, target, draft) else nullcontext():
        # Imported here, so that errors in the options are reported before MLX is loaded.
        with importing("MLX and mlx-lm"):
            from helix_mlx.engine.engine import load

        return load(
            pair,
            target=target,
            draft=draft,
            config=config,
            trust_remote_code=options["trust_remote_code"],
            notice=notice,
        )


def _tell(terminal: Terminal, text: str) -> None:
    """Write a line to standard error, over a progress bar that may be there."""
    terminal.error_line(f"\r\x1b[K{text}" if terminal.live_errors else text)


def _fetched(pair: str | None, terminal: Terminal) -> str:
    """Have a pair's target on this machine; return the pair's name.

    Without a name it is the default pair, or the built-in one if the default can be had nowhere.

    Raises:
        HelixError: there is no such pair, or a named one cannot be had.
    """
    named = named_pair(pair or DEFAULT)
    if named.target_here is not None:
        return named.name
    with importing("MLX and mlx-lm"):
        from helix_mlx.models.loader import fetch_target

    bar = ProgressBar(terminal, "Downloading (MB)")
    try:
        fetch_target(named, partial(_tell, terminal), bar.update)
    except ModelError as error:
        if pair is not None:
            raise
        _tell(terminal, f"{named.name} cannot be had: {error}. Starting the built-in demonstration instead.")
        return DEMONSTRATION
    finally:
        bar.wipe()
    return named.name


def find_model(options: Options) -> None:
    """Check that what the options name exists, without loading it.

    Raises:
        HelixError: they name several things, or a pair that is none or is damaged.
    """
    pair, target, _ = chosen(options)
    if target is None:
        named_pair(pair or DEFAULT)


def complete_pair(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Shell completion of pair names."""
    names = [*(pair.name for pair in named_pairs()), *(folder.name for folder in converted_folders())]
    return [name for name in names if name.startswith(incomplete)]


def tell_unread(engine: ChatEngine, terminal: Terminal, chosen: Mapping[str, Any]) -> None:
    """Report the settings that the model's chat template does not use."""
    for what in engine.unread(chosen.get("thinking"), chosen.get("template_args")):
        terminal.error_line(f"The model's chat template does not use {what}; it has no effect.")


def chosen(options: Options) -> tuple[str | None, str | None, str | None]:
    """The pair, target and draft that the options name; None for each that is not given.

    --model means a pair if one has that name, else a target: a folder or a repository on the hub.

    Raises:
        SettingsError: they name several things, or a pair that is none.
    """
    model, pair, target = (options[word] or None for word in ("model", "pair", "target"))
    if pair is not None and target is not None:
        raise SettingsError("--pair and --target cannot be used together; choose one")
    if model is not None:
        if pair is not None or target is not None:
            raise SettingsError(f"{model} and {'--pair' if pair else '--target'} cannot be used together; choose one")
        if is_pair(model) or not _is_model(model):
            pair = model
        else:
            target = model
    models = options.get("ollama_models")
    return pair, _from_ollama(target, models), _from_ollama(options["draft"], models)


def _is_model(name: str) -> bool:
    """Whether a name that is no pair's can mean a model: a path, a repository, or one of another program's."""
    return (
        "/" in name
        or name.startswith((OLLAMA, LM_STUDIO, WHEEL))
        or name.endswith(SUFFIX)
        or os.path.exists(os.path.expanduser(name))
    )


def _from_ollama(source: str | None, models: str | None) -> str | None:
    """A source, with the path of a model that Ollama keeps elsewhere than usual in place of its name."""
    if source is None or not models or not source.startswith(OLLAMA):
        return source
    return str(ollama_model(source.removeprefix(OLLAMA), Path(models).expanduser()))


def is_pair(name: str) -> bool:
    """Whether a pair has that name, or a converted one lies in that folder."""
    return name in (named.name for named in named_pairs()) or converted_folder(name) is not None


def _is_here(pair: str | None, target: str | None, draft: str | None) -> bool:
    """Whether everything is on disk; otherwise the download shows its own progress bar."""
    if target is None:
        assert pair is not None, "the target of a pair has been fetched"
        target, draft = None, draft or named_pair(pair).draft
    return all(_has(source) for source in (target, draft) if source is not None)


def _has(source: str) -> bool:
    return source == "none" or local_model(source) is not None or source_path(source) is not None
