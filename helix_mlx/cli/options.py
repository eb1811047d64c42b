"""The shared settings: one table that defines the command-line options and `/set`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from helix_mlx.config import CPU_KERNELS, EngineConfig, parse_bytes
from helix_mlx.errors import SettingsError
from helix_mlx.request import (
    MAX_DRAFT_TOKENS,
    MODEL_SETTINGS,
    VERIFICATIONS,
    Request,
    SamplingParams,
    check_draft_tokens,
)
from helix_mlx.speculative.registry import check_drafter, names

Command = TypeVar("Command", bound=Callable[..., Any])
FROM_MODEL = "generation_config.json"
"""The origin shown for settings that come from the model."""
Options = Mapping[str, Any]
"""The options' values by parameter name, as click passes them; None or () if not given."""


def draft_length(text: str) -> int | None:
    """Parse a draft length: "off" is 0, "auto" is None (the engine chooses).

    Raises:
        SettingsError: the word is neither, and no number in range.
    """
    if text == "auto":
        return None
    try:
        length = 0 if text == "off" else int(text)
    except ValueError:
        raise SettingsError(
            f"draft-tokens is {text}, but must be between 0 (off) and {MAX_DRAFT_TOKENS}, or auto"
        ) from None
    check_draft_tokens(length)
    return length


def switch(text: str) -> bool:
    """Parse "on" or "off".

    Raises:
        SettingsError: the word is neither.
    """
    if text not in ("on", "off"):
        raise SettingsError(f"{text} is neither on nor off; give one of them")
    return text == "on"


def thinking(text: str) -> bool | None:
    """Parse "on", "off" or "auto"; the last is None and leaves it to the model's chat template.

    Raises:
        SettingsError: the word is none of them.
    """
    if text not in ("on", "off", "auto"):
        raise SettingsError(f"thinking is {text}, but must be on, off or auto")
    return None if text == "auto" else text == "on"


def template_arg(text: str) -> tuple[str, Any]:
    """Parse "NAME=VALUE"; the value is read as JSON if possible, else as text.

    Raises:
        SettingsError: there is no name, or no value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SettingsError(f"template-arg is {text!r}, but must be NAME=VALUE, such as reasoning_effort=high")
    try:
        return name, json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return name, value


def stop_token(text: str) -> int | str:
    """Parse a token: an id if the text is a number, else the token's text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True)
class Setting:
    """One setting: its name, its type and its help.

    `home` is the dataclass it belongs to, which knows its default and its range. A setting of one request can be
    changed in the middle of a chat; one of the engine cannot. `kind` makes a value of a text. `named` is the field,
    where it has another name than the word.
    """

    word: str
    home: type[SamplingParams] | type[EngineConfig] | type[Request]
    kind: Callable[[str], Any]
    metavar: str
    help: str
    multiple: bool = False
    named: str = ""

    @property
    def field(self) -> str:
        """The name of the dataclass field and of click's parameter."""
        return self.named or self.word.replace("-", "_")

    @property
    def default(self) -> Any:
        """The default value."""
        return next(field.default for field in fields(self.home) if field.name == self.field)

    def parse(self, text: str) -> Any:
        """Parse a value; "none" restores the default of settings that are unset by default.

        Raises:
            SettingsError: the text is of the wrong kind.
        """
        if text.lower() == "none" and self.default in (None, ()):
            return self.default
        try:
            value = self.kind(text)
        except ValueError:
            raise SettingsError(f"{self.word} is {text}, but must be a number") from None
        return (value,) if self.multiple else value


SETTINGS = (
    Setting("max-tokens", SamplingParams, int, "N", "Maximum tokens to generate."),
    Setting("temperature", SamplingParams, float, "X", "Sampling temperature; 0 always takes the likeliest token."),
    Setting(
        "top-p", SamplingParams, float, "X", "Sample from the likeliest tokens that together reach this probability."
    ),
    Setting("top-k", SamplingParams, int, "N", "Sample from the N likeliest tokens; 0 is off."),
    Setting("min-p", SamplingParams, float, "X", "Drop tokens less likely than X times the likeliest; 0 is off."),
    Setting(
        "seed", SamplingParams, int, "N", "Random seed: the same seed gives the same text, with any draft or none."
    ),
    Setting("stop", SamplingParams, str, "TEXT", "Stop before this text; repeatable.", multiple=True),
    Setting(
        "stop-token",
        SamplingParams,
        stop_token,
        "TOKEN|ID",
        "Stop at this token, as at the model's own end token; repeatable.",
        multiple=True,
        named="stop_tokens",
    ),
    Setting(
        "thinking",
        Request,
        thinking,
        "on|off|auto",
        "Turn reasoning on or off, if the chat template has a switch for it.  [default: auto]",
    ),
    Setting(
        "template-arg",
        Request,
        template_arg,
        "NAME=VALUE",
        "Set a variable of the chat template, as JSON or text; repeatable.",
        multiple=True,
        named="template_args",
    ),
    Setting(
        "draft-tokens",
        EngineConfig,
        draft_length,
        f"0..{MAX_DRAFT_TOKENS}|auto",
        "Tokens to draft per cycle; 0 is off.  [default: auto]",
    ),
    Setting(
        "verification",
        SamplingParams,
        str,
        "|".join(VERIFICATIONS),
        "Rule for accepting drafts.  [default: by temperature and seed]",
    ),
    Setting("drafter", EngineConfig, check_drafter, "|".join(names()), "Draft source; auto picks the fastest."),
    Setting("calibrate", EngineConfig, switch, "on|off", "Measure the cost of drafting on this machine, once."),
    Setting("page-size", EngineConfig, int, "N", "Token positions per page of KV memory."),
    Setting("kv-memory", EngineConfig, parse_bytes, "SIZE", "Maximum KV memory, such as 2GB."),
    Setting("max-context", EngineConfig, int, "N", "Maximum tokens of prompt and answer together."),
    Setting("max-sequences", EngineConfig, int, "N", "Maximum concurrent requests; more wait in line.  [default: 16]"),
    Setting("max-rows", EngineConfig, int, "N", "Maximum rows of one decoding pass, over all requests."),
    Setting("prefill-chunk", EngineConfig, int, "N", "Maximum prompt tokens to read between two cycles."),
    Setting("prefix-cache", EngineConfig, switch, "on|off", "Reuse KV pages for prompts with the same beginning."),
    Setting("cpu-kernels", EngineConfig, str, "|".join(CPU_KERNELS), "Use Helix's own kernels for models on a CPU."),
    Setting("cpu-threads", EngineConfig, int, "N", "Threads for the CPU kernels.  [default: the available cores]"),
    Setting(
        "lookahead",
        EngineConfig,
        int,
        "0|1",
        "Cycles to start before the last one's tokens are read.  [default: 1 without drafts]",
    ),
)

_OTHERS = (
    click.option("--model", "-m", metavar="NAME", help="Name of a pair, or a model, as for --target."),
    click.option(
        "--pair", metavar="NAME", help="Name of a pair; see `helix-mlx pairs`.  [default: smollm2-135m, else tiny]"
    ),
    click.option(
        "--target",
        metavar="MODEL",
        help="Target model, instead of a named pair: a folder, a GGUF file, a repository, ollama:NAME or "
        "lmstudio:PUBLISHER/MODEL.",
    ),
    click.option("--draft", metavar="MODEL|none", help="Draft model for the target."),
    click.option("--ollama-models", envvar="OLLAMA_MODELS", hidden=True, help="Where Ollama keeps its models."),
    click.option("--trust-remote-code", is_flag=True, help="Allow models to run Python code of their own."),
    click.option("--system", metavar="TEXT", help="System message."),
    click.option(
        "--no-generation-config",
        is_flag=True,
        help="Ignore the model's generation_config.json: its default settings and end tokens.",
    ),
    click.option("--no-color", is_flag=True, help="Disable colours, as NO_COLOR does."),
)


def settings_options(command: Command) -> Command:
    """Give a click command all shared options."""
    for setting in reversed(SETTINGS):
        shown = setting.default not in (None, ())
        default = "on" if setting.default is True else setting.default
        if setting.field in MODEL_SETTINGS:
            default = f"the model's, or {default}"
        text = f"{setting.help}  [default: {default}]" if shown else setting.help
        command = click.option(
            f"--{setting.word}",
            setting.field,
            type=setting.kind,
            metavar=setting.metavar,
            multiple=setting.multiple,
            help=text,
        )(command)
    for option in reversed(_OTHERS):
        command = option(command)
    return command


def sampling_params(options: Options, defaults: Mapping[str, Any] | None = None) -> SamplingParams:
    """The sampling settings among a command's options, on top of the model's own.

    Raises:
        SettingsError: a value is out of range, or two contradict each other.
    """
    return SamplingParams(**{**(defaults or {}), **_given(options, SamplingParams)})


def template_settings(options: Options) -> dict[str, Any]:
    """The options for the chat template, as fields of `Request`."""
    given = _given(options, Request)
    return {**given, "template_args": dict(given["template_args"])} if "template_args" in given else given


def origins(options: Options, defaults: Mapping[str, Any]) -> dict[str, str]:
    """Where each setting's value comes from, by field; defaults are left out."""
    given = [name for home in (SamplingParams, EngineConfig, Request) for name in _given(options, home)]
    return {**dict.fromkeys(defaults, FROM_MODEL), **dict.fromkeys(given, "command line")}


def engine_config(options: Options) -> EngineConfig:
    """The engine's settings among a command's options.

    Raises:
        SettingsError: a value is out of range.
    """
    return EngineConfig(**_given(options, EngineConfig), generation_config=not options.get("no_generation_config"))


def _given(options: Options, home: type) -> dict[str, Any]:
    words = [setting.field for setting in SETTINGS if setting.home is home]
    return {word: options[word] for word in words if options.get(word) not in (None, ())}
