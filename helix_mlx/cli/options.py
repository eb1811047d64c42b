"""The settings that every command shares: one table, from which come options, `/set`, and the engine's own types."""

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
"""Where a setting's value is from that the model sets."""
Options = Mapping[str, Any]
"""What click hands a command: the options' values by parameter name, None or () where one was not given."""


def draft_length(text: str) -> int | None:
    """The number of drafts a cycle that a word stands for: "off" is 0, "auto" is None, the engine's own choice.

    Raises:
        SettingsError: the word is neither, and no number in range.
    """
    if text == "auto":
        return None
    try:
        length = 0 if text == "off" else int(text)
    except ValueError:
        raise SettingsError(
            f"draft-tokens is {text}, but has to be between 0 (off) and {MAX_DRAFT_TOKENS}, or auto"
        ) from None
    check_draft_tokens(length)
    return length


def switch(text: str) -> bool:
    """What "on" and "off" stand for.

    Raises:
        SettingsError: the word is neither.
    """
    if text not in ("on", "off"):
        raise SettingsError(f"{text} is neither on nor off; give one of them")
    return text == "on"


def thinking(text: str) -> bool | None:
    """What "on", "off" and "auto" stand for; the last leaves it to the model's chat template.

    Raises:
        SettingsError: the word is none of them.
    """
    if text not in ("on", "off", "auto"):
        raise SettingsError(f"thinking is {text}, but has to be on, off or auto")
    return None if text == "auto" else text == "on"


def template_arg(text: str) -> tuple[str, Any]:
    """The variable and the value of "NAME=VALUE": the value as JSON where it is that, else the text itself.

    Raises:
        SettingsError: there is no name, or no value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise SettingsError(f"template-arg is {text!r}, but has to be NAME=VALUE, such as reasoning_effort=high")
    try:
        return name, json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return name, value


def stop_token(text: str) -> int | str:
    """A token by its id, where the text is a number, or by its text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@dataclass(frozen=True)
class Setting:
    """One setting: the word for it, what it takes, and what it means.

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
        """The value where nothing is given."""
        return next(field.default for field in fields(self.home) if field.name == self.field)

    def parse(self, text: str) -> Any:
        """The value that a text stands for; "none" is what some settings are by default.

        Raises:
            SettingsError: the text is of the wrong kind.
        """
        if text.lower() == "none" and self.default in (None, ()):
            return self.default
        try:
            value = self.kind(text)
        except ValueError:
            raise SettingsError(f"{self.word} is {text}, but has to be a number") from None
        return (value,) if self.multiple else value


SETTINGS = (
    Setting("max-tokens", SamplingParams, int, "N", "Most tokens of an answer."),
    Setting("temperature", SamplingParams, float, "X", "0 takes the likeliest token, more draws more freely."),
    Setting("top-p", SamplingParams, float, "X", "Draw from the likeliest tokens that make up this share."),
    Setting("top-k", SamplingParams, int, "N", "Draw from this many likeliest tokens; 0 is off."),
    Setting("min-p", SamplingParams, float, "X", "Drop tokens below this share of the likeliest; 0 is off."),
    Setting("seed", SamplingParams, int, "N", "The same seed gives the same text, with any draft or none."),
    Setting("stop", SamplingParams, str, "TEXT", "End before this text; may be repeated.", multiple=True),
    Setting(
        "stop-token",
        SamplingParams,
        stop_token,
        "TOKEN|ID",
        "End at this token, as at the model's own end; may be repeated.",
        multiple=True,
        named="stop_tokens",
    ),
    Setting(
        "thinking",
        Request,
        thinking,
        "on|off|auto",
        "Whether the model reasons before it answers, where its chat template has a switch.  [default: auto]",
    ),
    Setting(
        "template-arg",
        Request,
        template_arg,
        "NAME=VALUE",
        "A variable of the chat template, as JSON or text; may be repeated.",
        multiple=True,
        named="template_args",
    ),
    Setting(
        "draft-tokens",
        EngineConfig,
        draft_length,
        f"0..{MAX_DRAFT_TOKENS}|auto",
        "Drafts a cycle; 0 is off.  [default: auto]",
    ),
    Setting("verification", SamplingParams, str, "|".join(VERIFICATIONS), "How drafts are accepted."),
    Setting("drafter", EngineConfig, check_drafter, "|".join(names()), "Draft source; auto takes what pays."),
    Setting("calibrate", EngineConfig, switch, "on|off", "Measure what drafts cost here, once."),
    Setting("page-size", EngineConfig, int, "N", "Token positions in a page of KV memory."),
    Setting("kv-memory", EngineConfig, parse_bytes, "SIZE", "Most memory for keys and values, such as 2GB."),
    Setting("max-context", EngineConfig, int, "N", "Most tokens of prompt and answer together."),
    Setting("max-sequences", EngineConfig, int, "N", "Answers that run at once; more wait.  [default: 16]"),
    Setting("max-rows", EngineConfig, int, "N", "Rows of one decoding pass, all answers together."),
    Setting("prefill-chunk", EngineConfig, int, "N", "Prompt tokens read between two cycles at most."),
    Setting("prefix-cache", EngineConfig, switch, "on|off", "Keep pages for prompts that begin alike."),
    Setting("cpu-kernels", EngineConfig, str, "|".join(CPU_KERNELS), "Helix's own kernels, for models on a CPU."),
    Setting("cpu-threads", EngineConfig, int, "N", "Threads for them; by default the cores it may use."),
    Setting(
        "lookahead",
        EngineConfig,
        int,
        "0|1",
        "1 reads a cycle late, 0 at once.  [default: 1 without drafts]",
    ),
)

_OTHERS = (
    click.option("--model", "-m", metavar="NAME", help="A pair by its name, or a model: a folder or a repository."),
    click.option("--pair", metavar="NAME", help="A named pair, see `helix-mlx pairs`.  [default: tiny]"),
    click.option("--target", metavar="PATH|REPO", help="A target of your own, instead of a named pair."),
    click.option("--draft", metavar="PATH|REPO|none", help="A draft for it, of the same vocabulary."),
    click.option("--trust-remote-code", is_flag=True, help="Run Python code that a model brings along."),
    click.option("--system", metavar="TEXT", help="A system message."),
    click.option(
        "--no-generation-config",
        is_flag=True,
        help="Leave out what the model's generation_config.json sets where you do not, and its end tokens.",
    ),
    click.option("--no-color", is_flag=True, help="No colours, as with NO_COLOR set."),
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
    """What a command's options set for the chat template, by the names of `Request`."""
    given = _given(options, Request)
    return {**given, "template_args": dict(given["template_args"])} if "template_args" in given else given


def origins(options: Options, defaults: Mapping[str, Any]) -> dict[str, str]:
    """Where each setting's value is from, by its field; those that are as they always are, are left out."""
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
