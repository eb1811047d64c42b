"""TOML files, on every Python that Helix runs on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(file: Path) -> dict[str, Any]:
    """The contents of a TOML file that comes with Helix."""
    return tomllib.loads(file.read_text(encoding="utf-8"))
