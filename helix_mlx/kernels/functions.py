"""Other functions for the layers of one model; mlx-lm's modules and classes stay as they are.

A layer is given a subclass of its class, whose functions find other objects under some of the names of their module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from mlx.nn.layers.base import Module

_PLACE = "mlx_lm.models."


def place(kind: type) -> tuple[str, str]:
    """Where mlx-lm defines a class: the name of its file, and the class's own."""
    return kind.__module__.removeprefix(_PLACE), kind.__name__


def is_mlx_lms(kind: type) -> bool:
    """Whether a class is of mlx-lm's models."""
    return kind.__module__.startswith(_PLACE)


def own_class(kind: type) -> type:
    """mlx-lm's class of a layer, whether or not `give_functions` has given it another one."""
    while "given_functions" in vars(kind):
        (kind,) = kind.__bases__
    return kind


def give_functions(
    model: Module, functions_of: Callable[[type], dict[str, Any] | None], *, again: bool = False
) -> None:
    """Give a model's layers other functions.

    Args:
        model: of mlx-lm.
        functions_of: tells the functions for a class of mlx-lm's; None leaves it alone.
        again: whether layers that were given some before are given these instead.
    """
    made: dict[type, type | None] = {}
    for module in model.modules():
        kind = own_class(type(module))
        if type(module) is not kind and not again:
            continue
        if kind not in made:
            body = functions_of(kind)
            own = {"given_functions": True, "__module__": kind.__module__}
            made[kind] = None if body is None else type(kind.__name__, (kind,), {**body, **own})
        if (given := made[kind]) is not None:
            module.__class__ = given


def rebuilt(kind: type, names: Mapping[str, Any]) -> dict[str, Any]:
    """The functions of a class, with other objects under some of the names that they find in their module."""
    body: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not is_mlx_lms(base):
            continue
        for name, value in vars(base).items():
            if isinstance(value, FunctionType):
                body[name] = renamed(value, names)
    return body


def renamed(function: FunctionType, names: Mapping[str, Any]) -> FunctionType:
    """A function with other objects under some of the names that it finds in its module."""
    found = {**function.__globals__, **names}
    made = FunctionType(function.__code__, found, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


class StandIn(ModuleType):
    """A module with other functions under some of its names."""

    def __init__(self, module: ModuleType, **functions: Callable[..., Any]) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(functions)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
