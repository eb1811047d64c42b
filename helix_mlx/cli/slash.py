"""The commands inside a chat, such as `/set temperature 0.7`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from helix_mlx.cli.options import SETTINGS, Setting, draft_length
from helix_mlx.cli.repl import Repl
from helix_mlx.cli.status import memory_line, stats_lines
from helix_mlx.cli.terminal import DIM
from helix_mlx.cli.transcript import save_transcript
from helix_mlx.errors import SettingsError, did_you_mean
from helix_mlx.request import SamplingParams

_FORM = re.compile(r"/([A-Za-z?]*!?)(?:\s+(.*))?$", re.DOTALL)


@dataclass(frozen=True)
class SlashCommand:
    """A command: how it is written, what it does, and the function that does it.

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
        raise SettingsError(f"there is no /{name}{did_you_mean('/' + name, words)}; there are {' '.join(words)}")
    return COMMANDS[name].run(repl, rest)


def _help(repl: Repl, rest: str) -> bool:
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        repl.terminal.line(f"{command.usage.ljust(width)}  {command.help}")
    repl.terminal.line("Ctrl-C stops an answer, Ctrl-D leaves.")
    return True


def _reset(repl: Repl, rest: str) -> bool:
    repl.reset()
    return _note(repl, "The conversation is forgotten; the system message and the settings stay.")


def _system(repl: Repl, rest: str) -> bool:
    if rest:
        repl.set_system(None if rest.lower() == "none" else rest)
    if repl.system is None:
        return _note(repl, "There is no system message. /system TEXT sets one.")
    return _note(repl, f"System message: {repl.system} (/system none takes it away)")


def _draft(repl: Repl, rest: str) -> bool:
    length = draft_length(rest or "auto")
    if not repl.engine.has_draft:
        raise SettingsError("this pair has no draft; start the chat with --draft, or with another --pair")
    if not rest:
        return _note(repl, f"Drafts a cycle: {_shown(repl.draft_tokens, 'auto')}. /draft N, off or auto changes it.")
    repl.draft_tokens = length
    return _note(repl, f"Drafts a cycle: {_shown(length, 'auto')}.")


def _set(repl: Repl, rest: str) -> bool:
    word, _, value = rest.partition(" ")
    if not word:
        for setting in SETTINGS:
            repl.terminal.line(f"{setting.word} {_shown(_current(repl, setting), 'none')}", DIM)
        return _note(repl, "/set NAME VALUE changes one.")
    word = word.replace("_", "-")
    if word == "draft-tokens":
        return _draft(repl, value.strip())
    by_word = {setting.word: setting for setting in SETTINGS}
    if word not in by_word:
        raise SettingsError(f"there is no setting {word}{did_you_mean(word, by_word)}; there are {', '.join(by_word)}")
    setting = by_word[word]
    if setting.home is not SamplingParams:
        raise SettingsError(f"{word} is fixed while a pair is loaded; start the chat with --{word}")
    if value.strip():
        repl.params = replace(repl.params, **{setting.field: setting.parse(value.strip())})
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
        f"{memory.pages_cached} kept for what begins alike, "
        f"{memory.waste:.0%} of their positions empty",
    )


def _save(repl: Repl, rest: str) -> bool:
    return _write_transcript(repl, rest, overwrite=False)


def _save_over(repl: Repl, rest: str) -> bool:
    return _write_transcript(repl, rest, overwrite=True)


def _quit(repl: Repl, rest: str) -> bool:
    return False


def _write_transcript(repl: Repl, rest: str, overwrite: bool) -> bool:
    if not rest:
        raise SettingsError("/save needs the name of a file, such as /save talk.md")
    path = Path(rest).expanduser()
    save_transcript(path, repl.engine.name, repl.messages, overwrite)
    return _note(repl, f"Saved in {path}.")


def _current(repl: Repl, setting: Setting) -> object:
    if setting.word == "draft-tokens":
        return repl.draft_tokens
    value: object = getattr(repl.params if setting.home is SamplingParams else repl.engine.config, setting.field)
    return " ".join(repr(text) for text in value) if isinstance(value, tuple) else value


def _shown(value: object, otherwise: str) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return otherwise if value in (None, "") else str(value)


def _note(repl: Repl, text: str) -> bool:
    if repl.as_json:
        repl.terminal.error_line(text)  # a script reads the answers alone
    else:
        repl.terminal.line(text, DIM)
    return True


COMMANDS = {
    "help": SlashCommand("/help", "this list", _help),
    "reset": SlashCommand("/reset", "forget the conversation", _reset),
    "system": SlashCommand("/system TEXT", "set the system message; none takes it away", _system),
    "draft": SlashCommand("/draft N|off|auto", "drafts a cycle", _draft),
    "set": SlashCommand("/set NAME VALUE", "change a setting, such as temperature 0.7; alone, show them all", _set),
    "stats": SlashCommand("/stats", "what the last answer cost, and the memory in use", _stats),
    "save": SlashCommand("/save FILE", "write the conversation to a Markdown file", _save),
    "save!": SlashCommand("/save! FILE", "the same, over a file that exists", _save_over),
    "quit": SlashCommand("/quit", "leave", _quit),
}
