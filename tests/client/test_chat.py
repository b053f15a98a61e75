"""The chat in the terminal, on a terminal of the test's own."""

import asyncio
import io
from collections.abc import Callable

import pytest

from client.chat import Chat, Conversation
from client.server import Server, ServerError
from runtime.errors import EngineError


class Terminal(io.StringIO):
    """What people type at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def talk(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, Conversation]]:
    """Type these lines; what the terminal shows, and the conversation at its end."""

    def typed(*lines: str, source: io.StringIO | None = None) -> tuple[str, Conversation]:
        left = iter(lines)

        def read(_: str) -> str:
            try:
                return next(left)
            except StopIteration:
                raise EOFError from None

        monkeypatch.setattr("builtins.input", read)
        conversation, out = Conversation("acme/model"), io.StringIO()
        with asyncio.Runner() as runner:
            server = runner.run(Server(url).__aenter__())
            try:
                Chat(server, conversation, source or Terminal(), out).run(runner)
            finally:
                runner.run(server.__aexit__(None, None, None))
        return out.getvalue(), conversation

    return typed


# Synchronous tests: the chat runs an event loop of its own.


def test_an_answer_and_how_fast_it_was_are_shown(talk) -> None:
    shown, conversation = talk("Hi", "/exit", "never read")
    assert "Hello world\n" in shown
    assert "11 tokens, the first after " in shown
    assert [turn["content"] for turn in conversation.turns] == ["Hi", "Hello world"]


def test_the_model_hears_what_was_said_before(talk, engine) -> None:
    talk("Hi", "And?")
    prompt = bytes(engine.requests[-1][0]).decode()
    assert prompt == "<user>Hi<assistant>Hello world<user>And?<assistant>"


def test_system_begins_anew(talk, engine) -> None:
    talk("Hi", "/system Be brief.", "And?")
    assert bytes(engine.requests[-1][0]).decode() == "<system>Be brief.<user>And?<assistant>"


def test_clear_begins_anew(talk, engine) -> None:
    talk("Hi", "/clear", "And?")
    assert bytes(engine.requests[-1][0]).decode() == "<user>And?<assistant>"


def test_a_line_may_go_on_in_the_next(talk, engine) -> None:
    talk("one\\", "two")
    assert bytes(engine.requests[-1][0]).decode() == "<user>one\ntwo<assistant>"


def test_an_error_is_told_and_the_conversation_goes_on(talk, engine) -> None:
    engine.scripts[0] = [EngineError("it broke")]
    shown, conversation = talk("Hi", "Again")
    assert "error: it broke" in shown
    assert [turn["content"] for turn in conversation.turns] == ["Again", "Hello world"]


def test_half_an_answer_stays_where_it_broke_off(talk, engine) -> None:
    engine.scripts[0] = [b"Hel", EngineError("it broke")]
    _, conversation = talk("Hi")
    assert [turn["content"] for turn in conversation.turns] == ["Hi", "Hel"]


def test_models_are_listed_and_an_unknown_one_is_not_taken(talk) -> None:
    shown, conversation = talk("/model", "/model other", "/model acme/model")
    assert shown.count("serves:\nacme/model\n") == 2
    assert "there is no model other" in shown
    assert conversation.model == "acme/model"


def test_help_and_unknown_commands(talk) -> None:
    shown, _ = talk("/help", "/hlep")
    assert shown.count("/system TEXT") == 2
    assert "there is no /hlep" in shown


def test_a_terminal_carries_out_nothing_that_the_model_says(talk, engine) -> None:
    engine.script = [b"\x1b[2Jgone\r\n"]
    shown, _ = talk("Hi")
    assert "\ufffd[2Jgone\ufffd\n" in shown


def test_a_pipe_is_one_message_and_its_answer_nothing_else(talk) -> None:
    shown, conversation = talk(source=io.StringIO("one\ntwo"))
    assert shown == "Hello world\n"
    assert conversation.turns[0]["content"] == "one\ntwo"


def test_a_pipes_error_ends_it(talk, engine) -> None:
    engine.script = [EngineError("it broke")]
    with pytest.raises(ServerError, match="it broke"):
        talk(source=io.StringIO("Hi"))
