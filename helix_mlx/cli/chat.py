"""`helix-mlx chat`: a conversation at the terminal."""

from __future__ import annotations

from typing import Any

import click

from helix_mlx import __version__
from helix_mlx.cli.console.interrupt import ctrl_c_as_flag
from helix_mlx.cli.console.terminal import BOLD, DIM, ERROR, Terminal
from helix_mlx.cli.loading import open_engine, tell_unread
from helix_mlx.cli.options import origins, sampling_params, settings_options, template_settings
from helix_mlx.cli.session.keyboard import Keyboard, history_file
from helix_mlx.cli.session.repl import ChatEngine, Repl
from helix_mlx.cli.session.slash import is_command, run_command
from helix_mlx.cli.session.status import memory_line
from helix_mlx.errors import HelixError, SettingsError


@click.command("chat")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print each answer as a line of JSON: text, content, stats.")
@settings_options
@click.pass_context
def chat_command(ctx: click.Context, /, name: str | None, as_json: bool, **options: Any) -> None:
    """Talk to a pair or a model. Ctrl-C stops an answer, Ctrl-D leaves, /help lists more.

    NAME is a pair, see `helix-mlx pairs`, or the folder or repository of a model.
    Standard input may also be a pipe: a message a line, and only the answers are printed, without their reasoning.
    """
    if name is not None:
        if options["model"] is not None:
            raise SettingsError(f"{name} and --model exclude each other; name one of them")
        options["model"] = name
    environment = ctx.obj or {}
    terminal = Terminal.of_process(environment, options["no_color"])
    sampling_params(options)  # mistakes are told before a model is loaded
    keyboard = Keyboard(terminal, history_file(environment))
    with open_engine(options, terminal) as engine, engine.conversation() as talk:
        params = sampling_params(options, engine.defaults)
        repl = Repl(engine, talk, terminal, params, options["system"], as_json)
        chosen = template_settings(options)
        repl.thinking, repl.template_args = chosen.get("thinking"), chosen.get("template_args", {})
        repl.origins = origins(options, engine.defaults)
        tell_unread(engine, terminal, chosen)
        greet(engine, terminal, keyboard.interactive)
        try:
            with ctrl_c_as_flag():  # so that a second Ctrl-C, right after the first, ends nothing
                converse(repl, keyboard)
        finally:
            keyboard.remember()


def greet(engine: ChatEngine, terminal: Terminal, interactive: bool) -> None:
    """Say what is running; of the demonstration pair also what it is, and how to fetch a real one."""
    demo = (
        f"{engine.name} is a demonstration pair: it knows a little of Helix and Python's library.\n"
        "`helix-mlx pairs` lists real ones, `helix-mlx chat --pair NAME` fetches one."
    )
    if interactive:
        terminal.line(terminal.paint(f"Helix {__version__}", BOLD) + terminal.paint(f" · {engine.name} · /help", DIM))
        terminal.line(memory_line(engine.memory()), DIM)
        if engine.is_demo:
            terminal.line(demo, DIM)
    elif engine.is_demo:
        terminal.error_line(demo)


def converse(repl: Repl, keyboard: Keyboard) -> None:
    """Take lines until the user leaves.

    At a keyboard an error is shown and the chat goes on, and Ctrl-C ends an answer. In a pipe both end the chat.

    Raises:
        HelixError: a line from a pipe cannot be answered.
        KeyboardInterrupt: Ctrl-C was pressed, and the lines come from a pipe.
    """
    while True:
        try:
            if not respond(repl, keyboard.read()):
                return
            if repl.stopped and not keyboard.interactive:
                raise KeyboardInterrupt
        except EOFError:
            if keyboard.interactive:
                repl.terminal.line()
            return
        except KeyboardInterrupt:
            if not keyboard.interactive:
                raise
            repl.terminal.line()
            repl.terminal.line("Ctrl-D or /quit leaves.", DIM)
        except HelixError as error:
            if not keyboard.interactive:
                raise
            repl.terminal.line(f"Error: {repl.explain(error)}", ERROR)


def respond(repl: Repl, line: str) -> bool:
    """Do what a line says; return whether the chat goes on."""
    text = line.strip()
    if is_command(text):
        return run_command(repl, text)
    if text:
        repl.ask(text)
    return True
