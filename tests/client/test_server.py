"""A server as the clients see it."""

import pytest

from client.server import Piece, Server, ServerError, Usage
from runtime.errors import EngineError

ASKED = {"model": "acme/model", "messages": [{"role": "user", "content": "Hi"}]}


async def pieces_of(url: str, **more) -> list[Piece]:
    async with Server(url) as server:
        return [piece async for piece in server.chat(ASKED | more)]


async def test_an_answer_comes_in_pieces_and_ends_with_its_usage(url: str) -> None:
    pieces = await pieces_of(url)
    assert "".join(piece.text for piece in pieces) == "Hello world"
    assert pieces[-1].usage == Usage(prompt=len("<user>Hi<assistant>"), answer=len("Hello world"))


async def test_the_address_may_end_in_v1(url: str) -> None:
    assert await pieces_of(f"{url}/v1/") == await pieces_of(url)


async def test_the_only_model_need_not_be_named(url: str) -> None:
    async with Server(url) as server:
        assert await server.one_model() == "acme/model"


async def test_a_refusal_is_told_in_the_servers_words(url: str) -> None:
    with pytest.raises(ServerError, match="the model `other` is not here") as caught:
        await pieces_of(url, model="other")
    assert caught.value.status == 404


async def test_a_fault_in_the_middle_is_an_error(url: str, engine) -> None:
    engine.script = [b"Hel", EngineError("it broke")]
    with pytest.raises(ServerError, match="it broke"):
        await pieces_of(url)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b'data: {"choices": []}\n\n', 200, "broke off"),
        (b"data: what?\n\n", 200, "no chunk"),
        (b"data: null\n\n", 200, "no chunk"),
        (b'data: {"choices": [{}]}\n\n', 200, "no chunk"),
        (b'data: {"error": "boom"}\n\n', 200, "boom"),
        (b"data: " + b"x" * (3 << 20), 200, "no event"),
        (b"<html>502", 502, "<html>502"),
        (b'{"error": {"message": "no"}}', 401, "no .*LLM_SERVE_API_KEY"),
        (b"", 500, "Internal Server Error"),
    ],
)
async def test_what_is_no_answer_is_told(sends, body: bytes, status: int, told: str) -> None:
    with sends(body, status) as url, pytest.raises(ServerError, match=told):
        await pieces_of(url)


@pytest.mark.parametrize(
    ("url", "told"), [("http://127.0.0.1:1", "nothing answers at http://127.0.0.1:1"), ("nowhere", "is no address")]
)
async def test_an_address_without_a_server_is_told(url: str, told: str) -> None:
    with pytest.raises(ServerError, match=told):
        await pieces_of(url)


async def test_several_models_are_listed(sends) -> None:
    with sends(b'{"data": [{"id": "a"}, {"id": "b"}]}') as url:
        async with Server(url) as server:
            with pytest.raises(ServerError, match="name one of them: a, b"):
                await server.one_model()


async def test_what_is_no_list_of_models_is_told(sends) -> None:
    with sends(b'{"data": [{}]}') as url:
        async with Server(url) as server:
            with pytest.raises(ServerError, match="has no list of models"):
                await server.models()
    with sends(b"<html>") as url:
        async with Server(url) as server:
            with pytest.raises(ServerError, match="is it an OpenAI API"):
                await server.models()
