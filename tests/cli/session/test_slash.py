from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from helix_mlx.cli.chat import respond
from helix_mlx.cli.console.terminal import Terminal
from helix_mlx.cli.options import SETTINGS
from helix_mlx.cli.session.repl import Repl
from helix_mlx.cli.session.slash import COMMANDS, is_command
from helix_mlx.errors import SettingsError
from helix_mlx.request import SamplingParams
from tests.cli.fakes import FakeEngine


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def repl(fake: FakeEngine) -> Repl:
    plain = Terminal(io.StringIO(), io.StringIO(), live=True, colour=False, live_errors=False)
    return Repl(fake, fake.talk, plain, SamplingParams())


def said(repl: Repl) -> str:
    out = repl.terminal.out
    assert isinstance(out, io.StringIO)
    return out.getvalue()


@pytest.mark.parametrize("line", ["/help", "/set temperature 0.7", "/save! a b.md", "/nothing", "/", "/?"])
def test_commands_begin_with_a_slash(line: str) -> None:
    assert is_command(line)


@pytest.mark.parametrize("line", ["/usr/bin is what?", "hello /help", "1/2"])
def test_a_path_is_a_message(line: str) -> None:
    assert not is_command(line)


def test_help_lists_every_command(repl: Repl) -> None:
    assert respond(repl, "/help")
    for command in COMMANDS.values():
        assert command.usage in said(repl)


def test_quit_ends_the_chat(repl: Repl) -> None:
    assert not respond(repl, "/quit")


def test_an_unknown_command_is_told_what_there_is(repl: Repl) -> None:
    with pytest.raises(SettingsError, match="there is no command /xyzzy; /help lists them all"):
        respond(repl, "/xyzzy")
    with pytest.raises(SettingsError, match=r"there is no command /stat \(did you mean /stats\?\); /help lists"):
        respond(repl, "/stat")


def test_reset_forgets_the_conversation_and_keeps_the_rest(repl: Repl, fake: FakeEngine) -> None:
    respond(repl, "/system Be brief.")
    respond(repl, "/set temperature 0.7")
    respond(repl, "one")
    respond(repl, "/reset")
    assert repl.messages == [{"role": "system", "content": "Be brief."}]
    assert repl.params.temperature == 0.7
    assert fake.talk.resets == 1


def test_system_is_set_shown_and_taken_away(repl: Repl) -> None:
    respond(repl, "/system")
    assert "No system message" in said(repl)
    respond(repl, "one")
    respond(repl, "/system Be brief.")
    respond(repl, "/system Be kind.")
    assert [message["role"] for message in repl.messages] == ["system", "user", "assistant"]
    assert repl.system == "Be kind."
    respond(repl, "/system none")
    assert [message["role"] for message in repl.messages] == ["user", "assistant"]


@pytest.mark.parametrize(("word", "length"), [("0", 0), ("off", 0), ("7", 7), ("auto", None)])
def test_draft_sets_the_draft_length_of_the_next_answer(
    repl: Repl, fake: FakeEngine, word: str, length: int | None
) -> None:
    respond(repl, "/draft 3")
    respond(repl, f"/draft {word}")
    respond(repl, "one")
    assert fake.talk.asked[0][2] == length


@pytest.mark.parametrize("line", ["/draft 8", "/draft -1", "/draft some", "/set draft-tokens 9"])
def test_a_bad_draft_length_says_the_range_and_changes_nothing(repl: Repl, line: str) -> None:
    respond(repl, "/draft 3")
    with pytest.raises(SettingsError, match=r"between 0 \(off\) and 7"):
        respond(repl, line)
    assert repl.draft_tokens == 3


def test_draft_without_a_draft_says_so() -> None:
    fake = FakeEngine(has_draft=False)
    plain = Terminal(io.StringIO(), io.StringIO(), live=True, colour=False, live_errors=False)
    with pytest.raises(SettingsError, match="no draft"):
        respond(Repl(fake, fake.talk, plain, SamplingParams()), "/draft 4")


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("/set temperature 0.7", "temperature", 0.7),
        ("/set max_tokens 9", "max_tokens", 9),
        ("/set top-k 40", "top_k", 40),
        ("/set seed 5", "seed", 5),
        ("/set stop the end", "stop", ("the end",)),
        ("/set verification token", "verification", "token"),
    ],
)
def test_set_changes_a_setting(repl: Repl, line: str, field: str, value: object) -> None:
    respond(repl, line)
    assert getattr(repl.params, field) == value
    respond(repl, "one")


@pytest.mark.parametrize("word", ["seed", "stop", "verification"])
def test_none_takes_a_setting_back(repl: Repl, word: str) -> None:
    respond(repl, f"/set {word} {'token' if word == 'verification' else '1'}")
    respond(repl, f"/set {word} none")
    assert repl.params == SamplingParams()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/set temperature -1", "temperature is -1.0, but must be 0 or more"),
        ("/set temperature warm", "temperature is warm, but must be a number"),
        ("/set top-p 2", "above 0 and at most 1"),
        ("/set page-size 8", "page-size cannot be changed during a chat; restart it with --page-size"),
        ("/set colour blue", "there is no setting colour; choose from max-tokens, temperature"),
        ("/set temprature 1", "there is no setting temprature (did you mean temperature?); choose from max-tokens"),
    ],
)
def test_a_bad_value_says_what_is_right_and_changes_nothing(repl: Repl, line: str, told: str) -> None:
    with pytest.raises(SettingsError) as error:
        respond(repl, line)
    assert told in str(error.value)
    assert repl.params == SamplingParams()


def test_set_alone_shows_every_setting(repl: Repl) -> None:
    respond(repl, "/set")
    for setting in SETTINGS:
        assert f"{setting.word} " in said(repl)
    assert "prefix-cache on" in said(repl)


def test_stats_tells_the_last_answer_and_the_memory(repl: Repl) -> None:
    respond(repl, "/stats")
    assert "No answer yet." in said(repl)
    respond(repl, "so")
    respond(repl, "/stats")
    assert "generated 3 tokens, 1 from drafts (33%)" in said(repl)
    assert "0 from the prefix cache" in said(repl)
    told = "context 2,048 of the model's 4,096 · KV memory 2.0 MB, up to 8.0 MB; 3 of 64 pages in use, 5 cached"
    assert told in said(repl)


def test_save_writes_markdown_and_does_not_overwrite(repl: Repl, tmp_path: Path) -> None:
    file = tmp_path / "a talk.md"
    respond(repl, "/system Be brief.")
    respond(repl, "one")
    respond(repl, f"/save {file}")
    first = file.read_text()
    assert first == "# A chat with fake\n\n## System\n\nBe brief.\n\n## You\n\none\n\n## fake\n\nYou said one\n"
    respond(repl, "two")
    with pytest.raises(SettingsError, match=r"exists; choose another name, or overwrite it with /save! "):
        respond(repl, f"/save {file}")
    assert file.read_text() == first
    respond(repl, f"/save! {file}")
    assert "two" in file.read_text()
    assert list(tmp_path.iterdir()) == [file]
    assert not stat.S_IMODE(file.stat().st_mode) & 0o111


@pytest.mark.parametrize("name", ["", ".", "no/such/folder/talk.md"])
def test_save_needs_a_place(repl: Repl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    respond(repl, "one")
    with pytest.raises(SettingsError):
        respond(repl, f"/save {name}")


def test_there_is_nothing_to_save_before_the_first_word(repl: Repl, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to save"):
        respond(repl, f"/save {tmp_path / 'talk.md'}")


def test_a_chat_saved_as_json_is_taken_up_again(repl: Repl, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    for line in (
        "/system Be brief.",
        "one",
        "think",
        "/set temperature 0.7",
        "/set stop end",
        "/draft 3",
        "/think off",
    ):
        respond(repl, line)
    respond(repl, "/set template-arg effort=high")
    respond(repl, f"/save {file}")
    before = (repl.messages, repl.params, repl.draft_tokens, repl.thinking, repl.template_args)
    fake = FakeEngine()
    again = Repl(fake, fake.talk, repl.terminal, SamplingParams())
    respond(again, "forgotten")
    respond(again, f"/load {file}")
    assert (again.messages, again.params, again.draft_tokens, again.thinking, again.template_args) == before
    assert again.origins["temperature"] == "talk.json"
    assert fake.talk.resets == 1
    respond(again, "two")
    assert fake.talk.asked[-1][0][:-1] == before[0]


def test_a_chat_of_another_pair_says_so(repl: Repl, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    respond(repl, "one")
    respond(repl, f"/save {file}")
    file.write_text(file.read_text().replace('"pair": "fake"', '"pair": "other"'))
    respond(repl, f"/load {file}")
    assert "It was saved with other and continues with fake." in said(repl)


SETTINGS_SAVED = '"settings": {"draft_tokens": null, "thinking": null, "template_args": {}}'
COLD = SETTINGS_SAVED.replace("{", '{"temperature": -1, ', 1)
HELLO = '"messages": [{"role": "user", "content": "hello"}]'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{}",
        "[" * 100_000,
        "\ufeff{",
        f'{{"pair": "x", "messages": [], {SETTINGS_SAVED}}}',
        f'{{"pair": 1, {HELLO}, {SETTINGS_SAVED}}}',
        f'{{"pair": "x", "messages": [{{"role": "tool", "content": ""}}], {SETTINGS_SAVED}}}',
        f'{{"pair": "x", "messages": [{{"role": "user", "content": 1}}], {SETTINGS_SAVED}}}',
        f'{{"pair": "x", "messages": [{{"role": "user", "content": "\\ud800"}}], {SETTINGS_SAVED}}}',
        f'{{"pair": "x", {HELLO}, {COLD}}}',
        f'{{"pair": "x", {HELLO}, {SETTINGS_SAVED.replace("null", "99")}}}',
    ],
)
def test_a_file_that_is_no_saved_chat_is_one_line_and_changes_nothing(repl: Repl, tmp_path: Path, text: str) -> None:
    file = tmp_path / "talk.json"
    file.write_text(text)
    respond(repl, "one")
    before = list(repl.messages)
    with pytest.raises(SettingsError, match="is not a saved chat"):
        respond(repl, f"/load {file}")
    assert (repl.messages, repl.params) == (before, SamplingParams())


@pytest.mark.parametrize(
    ("line", "told"), [("/load", "needs a file name"), ("/load no.json", "cannot read no.json: No such")]
)
def test_load_needs_a_file(repl: Repl, line: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        respond(repl, line)


def test_model_alone_says_which_it_is(repl: Repl) -> None:
    respond(repl, "/model")
    assert "Current model: fake." in said(repl)
