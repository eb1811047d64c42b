"""`helix-mlx generate`: one prompt, one answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from helix_mlx.cli.console.interrupt import INTERRUPTED, ctrl_c_as_flag
from helix_mlx.cli.console.progress import ProgressBar
from helix_mlx.cli.console.terminal import DIM, Terminal
from helix_mlx.cli.console.text import checked_text, not_utf8
from helix_mlx.cli.loading import open_engine, tell_unread
from helix_mlx.cli.options import Options, sampling_params, settings_options, template_settings
from helix_mlx.cli.session.painter import Painter
from helix_mlx.cli.session.repl import UNANSWERED
from helix_mlx.cli.session.status import status_line
from helix_mlx.errors import PromptError
from helix_mlx.request import Chunk, Completion, SamplingParams
from helix_mlx.types import Message

if TYPE_CHECKING:
    from helix_mlx.engine.engine import Engine


@click.command("generate", short_help="Answer one prompt.")
@click.argument("prompt", required=False)
@click.option(
    "--raw", is_flag=True, help="Complete the prompt as is, without the chat template, and print reasoning too."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object (text, reasoning, content, tokens, stats, settings)."
)
@settings_options
@click.pass_context
def generate_command(ctx: click.Context, /, prompt: str | None, raw: bool, as_json: bool, **options: Any) -> None:
    """Answer PROMPT, or standard input if PROMPT is missing or "-".

    At a terminal, reasoning is shown dimmed before the answer; in a pipe or a file, only the answer is printed.
    """
    terminal = Terminal.of_process(ctx.obj or {}, options["no_color"])
    sampling_params(options)  # report errors before loading a model
    chosen = template_settings(options)
    text = read_prompt(prompt)
    if raw and options["system"]:
        raise PromptError("--raw skips the chat template, which --system needs; use one or the other")
    if raw and chosen:
        raise PromptError(
            "--raw skips the chat template, which --thinking and --template-arg set; use one or the other"
        )
    with open_engine(options, terminal) as engine:
        params = sampling_params(options, engine.defaults)
        tell_unread(engine, terminal, chosen)
        if as_json:
            completion = _complete(engine, text, params, raw, options)
            terminal.line(json.dumps(completion.to_json(), ensure_ascii=False))
        elif _stream(engine, text, params, raw, options, terminal):
            ctx.exit(INTERRUPTED)


def read_prompt(argument: str | None) -> str:
    """The prompt from the command line, or from standard input without its last newline.

    Raises:
        PromptError: there is none, or it is no text.
    """
    if argument is None and sys.stdin.isatty():
        raise PromptError("there is no prompt; give one as an argument or on standard input")
    try:
        text = sys.stdin.read().removesuffix("\n") if argument in (None, "-") else str(argument)
    except UnicodeDecodeError:
        raise not_utf8() from None
    except OSError as error:
        raise PromptError(
            f"cannot read standard input: {error.strerror or error}; redirect it from another source"
        ) from None
    text = checked_text(text)
    if not text.strip():
        raise PromptError("the prompt is empty; enter some text")
    return text


def _messages(text: str, options: Options) -> list[Message]:
    system = [{"role": "system", "content": checked_text(options["system"])}] if options["system"] else []
    return [*system, {"role": "user", "content": text}]


def _complete(engine: Engine, text: str, params: SamplingParams, raw: bool, options: Options) -> Completion:
    if raw:
        return engine.generate(text, params)
    return engine.chat(_messages(text, options), params, **template_settings(options))


def _stream(engine: Engine, text: str, params: SamplingParams, raw: bool, options: Options, terminal: Terminal) -> bool:
    """Print the answer as it comes; return whether Ctrl-C ended it."""
    bar, painter = ProgressBar(terminal, "Reading the prompt"), Painter(terminal, whole=raw, drafts=False)
    answered = False
    with ctrl_c_as_flag() as stopped:
        chunks: Iterator[Chunk]
        if raw:
            chunks = engine.stream(text, params, cancel=stopped, progress=bar.update)
        else:
            messages, chosen = _messages(text, options), template_settings(options)
            chunks = engine.stream_chat(messages, params, **chosen, cancel=stopped, progress=bar.update)
        chunk = Chunk("")
        try:
            for chunk in chunks:
                bar.wipe()
                painter.write(chunk)
                answered = answered or bool(chunk.text and not chunk.reasoning)
        finally:
            painter.end()
        terminal.line()
        if chunk.reasoning and not answered and not terminal.live and not raw:
            terminal.error_line(UNANSWERED)
        if chunk.stats and terminal.live and terminal.live_errors:
            terminal.error_line(terminal.paint(status_line(chunk), DIM))
        return chunk.finish_reason == "cancelled"
