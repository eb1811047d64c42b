"""`helix-mlx chat`: a conversation at the terminal."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from helix_mlx import __version__
from helix_mlx.cli.console.interrupt import ctrl_c_as_exception, ctrl_c_as_flag
from helix_mlx.cli.console.terminal import BOLD, DIM, ERROR, Terminal
from helix_mlx.cli.loading import complete_pair, find_model, open_engine, tell_unread
from helix_mlx.cli.options import FROM_MODEL, Options, origins, sampling_params, settings_options, template_settings
from helix_mlx.cli.session.keyboard import Keyboard, history_file, opens_block
from helix_mlx.cli.session.repl import ChatEngine, Repl, Talk
from helix_mlx.cli.session.slash import is_command, run_command
from helix_mlx.cli.session.status import memory_line
from helix_mlx.errors import HelixError, SettingsError
from helix_mlx.request import SamplingParams

if TYPE_CHECKING:
    from helix_mlx.engine.engine import Engine


@click.command("chat")
@click.argument("name", required=False, shell_complete=complete_pair)
@click.option("--json", "as_json", is_flag=True, help="Print each answer as one line of JSON (text, content, stats).")
@settings_options
@click.pass_context
def chat_command(ctx: click.Context, /, name: str | None, as_json: bool, **options: Any) -> None:
    """Chat with a pair or a model. Ctrl-C stops an answer, Ctrl-D quits, /help lists commands.

    NAME is a pair (see `helix-mlx pairs`) or a model's folder or repository.
    Begin and end a message of several lines with \"\"\". Standard input may be a pipe: each line is a message, and only
    the answers are printed, without reasoning.
    """
    if name is not None:
        if options["model"] is not None:
            raise SettingsError(f"{name} and --model cannot be used together; choose one")
        options["model"] = name
    environment = ctx.obj or {}
    terminal = Terminal.of_process(environment, options["no_color"])
    sampling_params(options)  # report errors before loading a model
    keyboard = Keyboard(terminal, history_file(environment))
    loaded = LoadedModel(options, terminal)
    with loaded:
        engine, talk = loaded.open(options)
        params = sampling_params(options, engine.defaults)
        repl = Repl(engine, talk, terminal, params, options["system"], as_json)
        chosen = template_settings(options)
        repl.thinking, repl.template_args = chosen.get("thinking"), chosen.get("template_args", {})
        repl.origins = origins(options, engine.defaults)
        repl.switch_model = partial(switch_model, repl, loaded)
        tell_unread(engine, terminal, chosen)
        greet(engine, terminal, keyboard.interactive)
        del engine, talk  # only the chat may hold them, so that it can release them
        try:
            with ctrl_c_as_flag():  # so that a quick second Ctrl-C does not end the program
                converse(repl, keyboard)
        finally:
            keyboard.remember()


class LoadedModel:
    """The one engine of a chat, and its conversation. A context manager, which closes them.

    Args:
        options: what the command was given.
        terminal: where loading is shown.
    """

    def __init__(self, options: Options, terminal: Terminal) -> None:
        self.options = options
        self._terminal = terminal
        self._open = ExitStack()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self, options: Options) -> tuple[Engine, Talk]:
        """Close what is loaded, and load what the options name.

        Raises:
            HelixError: it cannot be loaded; nothing is loaded then.
        """
        self.close()
        engine = self._open.enter_context(open_engine(options, self._terminal))
        self.options = options
        return engine, self._open.enter_context(engine.conversation())

    def close(self) -> None:
        """Close what is loaded and free its memory."""
        self._open.close()
        gc.collect()  # an engine's parts refer to each other in cycles


def switch_model(repl: Repl, loaded: LoadedModel, name: str) -> None:
    """Switch to another pair or model, keeping the messages and the user's own settings.

    The old one is closed first, as memory may not hold both. It comes back where the new one cannot be loaded. Code
    that a model brings along is run only where its own command line allows that.

    Raises:
        HelixError: the other one cannot be loaded.
        KeyboardInterrupt: Ctrl-C was pressed while it was loaded.
    """
    before, old = loaded.options, repl.engine.name
    options = {**before, "model": name, "pair": None, "target": None, "draft": None, "trust_remote_code": False}
    find_model(options)  # so that a wrong name does not unload anything
    repl.detach()
    failure: HelixError | KeyboardInterrupt
    try:
        with ctrl_c_as_exception():
            _take(repl, loaded, options)
        return
    except HelixError as error:
        failure = SettingsError(f"{error}; still using {old}")
    except KeyboardInterrupt:
        failure = KeyboardInterrupt()
    # Outside `except`, because the exception would keep the failed model in memory.
    repl.attach(*loaded.open(before))
    raise failure


def _take(repl: Repl, loaded: LoadedModel, options: Options) -> None:
    """Load what the options name, and continue the chat with it."""
    engine, talk = loaded.open(options)
    own = {word: origin for word, origin in repl.origins.items() if origin != FROM_MODEL}
    given = {word: getattr(repl.params, word) for word in own if hasattr(repl.params, word)}
    repl.params = SamplingParams(**{**engine.defaults, **given})
    repl.origins = {**dict.fromkeys(engine.defaults, FROM_MODEL), **own}
    tell_unread(engine, repl.terminal, {"thinking": repl.thinking, "template_args": repl.template_args})
    repl.attach(engine, talk)


def greet(engine: ChatEngine, terminal: Terminal, interactive: bool) -> None:
    """Show what is running; for the demonstration pair also how to get a real one."""
    demo = (
        f"{engine.name} is a demonstration pair: it knows only a little about Helix and Python's library.\n"
        "`helix-mlx pairs` lists real ones; `helix-mlx chat --pair NAME` downloads one."
    )
    if interactive:
        terminal.line(terminal.paint(f"Helix {__version__}", BOLD) + terminal.paint(f" · {engine.name} · /help", DIM))
        terminal.line(memory_line(engine.memory()), DIM)
        if engine.is_demo:
            terminal.line(demo, DIM)
    elif engine.is_demo:
        terminal.error_line(demo)


def converse(repl: Repl, keyboard: Keyboard) -> None:
    """Read and handle lines until the user quits.

    At a keyboard an error is shown and the chat goes on, and Ctrl-C ends an answer. In a pipe both end the chat.

    Raises:
        HelixError: a line from a pipe cannot be answered.
        KeyboardInterrupt: Ctrl-C was pressed, and the lines come from a pipe.
    """
    while True:
        try:
            line = keyboard.read()
            if opens_block(line):
                send(repl, keyboard.read_block(line))
            elif not respond(repl, line):
                return
            if repl.stopped and not keyboard.interactive:
                raise KeyboardInterrupt
        except EOFError:
            if keyboard.interactive:
                repl.terminal.line()
            return
        except KeyboardInterrupt:
            if not (keyboard.interactive and repl.attached):
                raise
            repl.terminal.line()
            repl.terminal.line("Press Ctrl-D or type /quit to quit.", DIM)
        except HelixError as error:
            if not (keyboard.interactive and repl.attached):
                raise
            repl.terminal.line(f"Error: {repl.explain(error)}", ERROR)


def respond(repl: Repl, line: str) -> bool:
    """Handle one line; return whether the chat goes on."""
    text = line.strip()
    if is_command(text):
        return run_command(repl, text)
    send(repl, text)
    return True


def send(repl: Repl, text: str) -> None:
    """Send a message, unless it is empty."""
    if text.strip():
        repl.ask(text)
