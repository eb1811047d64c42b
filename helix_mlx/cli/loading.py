"""From a command's options to a loaded engine."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from helix_mlx.cli.options import Options, engine_config
from helix_mlx.cli.progress import ticking
from helix_mlx.cli.terminal import Terminal
from helix_mlx.errors import SettingsError
from helix_mlx.models.pairs import DEMONSTRATION, named_pair, source_path
from helix_mlx.models.third_party import importing

if TYPE_CHECKING:
    from helix_mlx.engine.engine import Engine


def open_engine(options: Options, terminal: Terminal) -> Engine:
    """Load the pair that the options name.

    Raises:
        HelixError: a setting is out of range, or a model cannot be loaded.
    """
    if options["pair"] is not None and options["target"] is not None:
        raise SettingsError("--pair and --target exclude each other; name one of them")
    config = engine_config(options)
    name = options["target"] or options["pair"] or DEMONSTRATION
    waiting = ticking(terminal, f"Loading {name}") if _is_here(options) else nullcontext()
    with waiting:
        # Imported here, so that mistakes in the options are told before MLX is loaded.
        with importing("MLX and mlx-lm"):
            from helix_mlx.engine.engine import load

        return load(
            options["pair"],
            target=options["target"],
            draft=options["draft"],
            config=config,
            trust_remote_code=options["trust_remote_code"],
            notice=lambda text: terminal.error_line(f"\r\x1b[K{text}" if terminal.live_errors else text),
        )


def _is_here(options: Options) -> bool:
    """Whether nothing has to be fetched: a download shows a progress bar of its own."""
    target, draft = options["target"], options["draft"]
    if target is None:
        named = named_pair(options["pair"] or DEMONSTRATION)
        target, draft = named.target, draft or named.draft
    return all(source_path(source) is not None for source in (target, draft) if source not in (None, "none"))
