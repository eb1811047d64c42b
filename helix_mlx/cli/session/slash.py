"""The commands inside a chat, such as `/set temperature 0.7`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from helix_mlx.cli.console.terminal import DIM
from helix_mlx.cli.options import SETTINGS, Setting, draft_length, template_arg, thinking
from helix_mlx.cli.session.repl import Repl
from helix_mlx.cli.session.saved import SavedChat, is_saved_chat, read_chat
from helix_mlx.cli.session.status import memory_line, stats_lines
from helix_mlx.cli.session.transcript import render_markdown, save_transcript
from helix_mlx.errors import SettingsError, did_you_mean
from helix_mlx.request import Request, SamplingParams

BY_HAND = "/set"
"""The origin shown for settings changed in the chat."""
_FORM = re.compile(r"/([A-Za-z?]*!?)(?:\s+(.*))?$", re.DOTALL)


@dataclass(frozen=True)
class SlashCommand:
    """A slash command: its usage, its help and its function.

    `run` gets the chat and the rest of the line, and returns whether the chat goes on.
    """

    usage: str
    help: str
    run: Callable[[Repl, str], bool]


def is_command(line: str) -> bool:
    """Whether a line is a command rather than a message. A path such as /usr/bin is a message."""
    return _FORM.match(line) is not None


def run_command(repl: Repl, line: str) -> bool:
    """Run a command line.

    Returns:
        Whether the chat goes on.

    Raises:
        SettingsError: there is no such command, or its value is out of range; nothing has changed then.
    """
    form = _FORM.match(line)
    assert form is not None
    name, rest = form.group(1), (form.group(2) or "").strip()
    if name not in COMMANDS:
        words = ["/" + known for known in COMMANDS]
        raise SettingsError(f"there is no command /{name}{did_you_mean('/' + name, words)}; /help lists them all")
    return COMMANDS[name].run(repl, rest)


def _help(repl: Repl, rest: str) -> bool:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        repl.terminal.line(f"{command.usage.ljust(width)}  {command.help}")
    repl.terminal.line('Begin and end a message of several lines with """.')
    repl.terminal.line("Ctrl-C stops an answer, Ctrl-D quits.")
    return True


def _reset(repl: Repl, rest: str) -> bool:
    repl.reset()
    return _note(repl, "Conversation cleared; the system message and the settings are kept.")


def _retry(repl: Repl, rest: str) -> bool:
    seed = repl.retry()
    return True if seed is None else _note(repl, f"Used the next seed, {seed}.")


def _model(repl: Repl, rest: str) -> bool:
    if not rest:
        return _note(repl, f"Current model: {repl.engine.name}. /model NAME switches to another.")
    if repl.switch_model is None:
        raise SettingsError("this chat cannot switch models; start a new one with `helix-mlx chat NAME`")
    repl.switch_model(rest)
    return _note(repl, f"Switched to {repl.engine.name} · {memory_line(repl.engine.memory())}")


def _system(repl: Repl, rest: str) -> bool:
    if rest:
        repl.set_system(None if rest.lower() == "none" else rest)
    if repl.system is None:
        return _note(repl, "No system message; /system TEXT sets one.")
    return _note(repl, f"System message: {repl.system} (/system none removes it)")


def _draft(repl: Repl, rest: str) -> bool:
    length = draft_length(rest or "auto")
    if not repl.engine.has_draft:
        raise SettingsError("there is no draft model; start the chat with --draft, or with another pair")
    if not rest:
        return _note(
            repl, f"Tokens drafted per cycle: {_shown(repl.draft_tokens, 'auto')}. /draft N, off or auto changes it."
        )
    repl.draft_tokens, repl.origins["draft_tokens"] = length, BY_HAND
    return _note(repl, f"Tokens drafted per cycle: {_shown(length, 'auto')}.")


def _think(repl: Repl, rest: str) -> bool:
    if rest:
        repl.thinking, repl.origins["thinking"] = thinking(rest), BY_HAND
        _tell_unread(repl, repl.thinking, None)
    shown = {None: "auto (the chat template decides)", True: "on", False: "off"}[repl.thinking]
    return _note(repl, f"Thinking: {shown}." + ("" if rest else " /think on, off or auto changes it."))


def _template_arg(repl: Repl, rest: str) -> bool:
    if rest:
        name, value = (None, None) if rest.lower() == "none" else template_arg(rest)
        repl.template_args = {**repl.template_args, name: value} if name else {}
        repl.origins["template_args"] = BY_HAND
        _tell_unread(repl, None, {name: value} if name else None)
    return _note(repl, f"template-arg {_shown(_pairs(repl.template_args), 'none')}")


def _tell_unread(repl: Repl, thinks: bool | None, template_args: dict[str, object] | None) -> None:
    for what in repl.engine.unread(thinks, template_args):
        _note(repl, f"The model's chat template does not use {what}; it has no effect.")


def _set(repl: Repl, rest: str) -> bool:
    word, _, value = rest.partition(" ")
    if not word:
        for setting in SETTINGS:
            origin = repl.origins.get(setting.field, "default")
            repl.terminal.line(f"{setting.word} {_shown(_current(repl, setting), 'none')} ({origin})", DIM)
        return _note(repl, "/set NAME VALUE changes one.")
    word = word.replace("_", "-")
    own = {"draft-tokens": _draft, "thinking": _think, "template-arg": _template_arg}
    if word in own:
        return own[word](repl, value.strip())
    by_word = {setting.word: setting for setting in SETTINGS}
    if word not in by_word:
        raise SettingsError(
            f"there is no setting {word}{did_you_mean(word, by_word)}; choose from {', '.join(by_word)}"
        )
    setting = by_word[word]
    if setting.home is not SamplingParams:
        raise SettingsError(f"{word} cannot be changed during a chat; restart it with --{word}")
    if value.strip():
        repl.params = replace(repl.params, **{setting.field: setting.parse(value.strip())})
        repl.origins[setting.field] = BY_HAND
    return _note(repl, f"{word} {_shown(_current(repl, setting), 'none')}")


def _stats(repl: Repl, rest: str) -> bool:
    if repl.last_stats is None:
        repl.terminal.line("No answer yet.", DIM)
    else:
        for line in stats_lines(repl.last_stats):
            repl.terminal.line(line, DIM)
    memory = repl.engine.memory()
    return _note(
        repl,
        f"{memory_line(memory)}; {memory.pages_used} of {memory.pages_total} pages in use, "
        f"{memory.pages_cached} cached for reuse, "
        f"{memory.unused_fraction:.0%} of their positions unused",
    )


def _save(repl: Repl, rest: str) -> bool:
    return _write_transcript(repl, rest, overwrite=False)


def _save_over(repl: Repl, rest: str) -> bool:
    return _write_transcript(repl, rest, overwrite=True)


def _quit(repl: Repl, rest: str) -> bool:
    return False


def _write_transcript(repl: Repl, rest: str, overwrite: bool) -> bool:
    if not rest:
        raise SettingsError("/save needs a file name, such as /save talk.md")
    path = _path(rest)
    if is_saved_chat(path):
        text = SavedChat(
            repl.engine.name, repl.messages, repl.params, repl.draft_tokens, repl.thinking, repl.template_args
        ).to_text()
    else:
        text = render_markdown(repl.engine.name, repl.messages)
    save_transcript(path, text if repl.messages else "", overwrite)
    return _note(repl, f"Saved to {path}.")


def _load(repl: Repl, rest: str) -> bool:
    if not rest:
        raise SettingsError("/load needs a file name, such as /load talk.json")
    path = _path(rest)
    saved = read_chat(path)
    repl.resume(saved.messages)
    repl.params, repl.thinking, repl.template_args = saved.params, saved.thinking, saved.template_args
    words = [*asdict(saved.params), "thinking", "template_args"]
    if repl.engine.has_draft:
        repl.draft_tokens = saved.draft_tokens
        words.append("draft_tokens")
    repl.origins = {**repl.origins, **dict.fromkeys(words, path.name)}
    _tell_unread(repl, repl.thinking, repl.template_args)
    other = (
        ""
        if saved.pair == repl.engine.name
        else f" It was saved with {saved.pair} and continues with {repl.engine.name}."
    )
    return _note(repl, f"Loaded {len(saved.messages)} messages and the settings from {path}.{other}")


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # "~name" of an unknown user
        return Path(text)


def _current(repl: Repl, setting: Setting) -> object:
    if setting.word == "draft-tokens":
        return "auto" if repl.draft_tokens is None else repl.draft_tokens
    if setting.home is Request:
        asked = {"thinking": "auto" if repl.thinking is None else repl.thinking}
        return asked.get(setting.word, _pairs(repl.template_args))
    value: object = getattr(repl.params if setting.home is SamplingParams else repl.engine.config, setting.field)
    return " ".join(repr(text) for text in value) if isinstance(value, tuple) else value


def _pairs(template_args: dict[str, object]) -> str:
    return " ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in template_args.items())


def _shown(value: object, otherwise: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return otherwise if value in (None, "") else str(value)


def _note(repl: Repl, text: str) -> bool:
    if repl.as_json:
        repl.terminal.error_line(text)  # scripts read only the answers from standard output
    else:
        repl.terminal.line(text, DIM)
    return True


COMMANDS = {
    "help": SlashCommand("/help", "show this list", _help),
    "retry": SlashCommand("/retry", "answer the last message again, with the next seed if one is set", _retry),
    "reset": SlashCommand("/reset", "clear the conversation", _reset),
    "system": SlashCommand("/system TEXT", "set the system message; /system none removes it", _system),
    "draft": SlashCommand("/draft N|off|auto", "tokens to draft per cycle", _draft),
    "think": SlashCommand("/think on|off|auto", "turn reasoning on or off", _think),
    "set": SlashCommand("/set NAME VALUE", "change a setting, such as temperature 0.7; /set alone shows all", _set),
    "stats": SlashCommand("/stats", "show statistics of the last answer and memory use", _stats),
    "save": SlashCommand("/save FILE", "save the conversation: .json to load again, else Markdown", _save),
    "save!": SlashCommand("/save! FILE", "the same, overwriting an existing file", _save_over),
    "load": SlashCommand("/load FILE.json", "resume a saved conversation with its settings", _load),
    "model": SlashCommand("/model NAME", "switch to another pair or model", _model),
    "quit": SlashCommand("/quit", "quit", _quit),
}
