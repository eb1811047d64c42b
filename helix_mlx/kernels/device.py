"""The device that models run on, by name."""

from __future__ import annotations

import platform

import mlx.core as mx


def chip_name() -> str:
    """The device's name, such as "Apple M3 Max"."""
    info = mx.device_info()
    return str(info.get("device_name") or info.get("architecture") or platform.processor() or platform.machine())


def on_cpu() -> bool:
    """Whether this thread's work goes to the CPU."""
    return mx.default_device() == mx.Device(mx.cpu)
