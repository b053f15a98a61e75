"""What pydantic-ai makes of the API, as JSON."""

import asyncio
import json
import sys

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

url, model, question = sys.argv[1:]
provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
cold = {"temperature": 0.0, "max_tokens": 100}


class City(BaseModel):
    """A city."""

    city: str = Field(max_length=20)
    people: int


async def main() -> dict[str, object]:
    found: dict[str, object] = {}
    agent = Agent(OpenAIChatModel(model, provider=provider), model_settings=cold)
    found["answer"] = (await agent.run(question)).output
    async with agent.run_stream(question) as stream:
        found["streamed"] = "".join([piece async for piece in stream.stream_text(delta=True)])
    try:
        await Agent(OpenAIChatModel("nobody/nothing", provider=provider)).run(question)
    except ModelHTTPError as error:
        found["unknown_model"] = ["NotFoundError" if error.status_code == 404 else "", error.body["code"]]
    typed = Agent(OpenAIChatModel(model, provider=provider), output_type=NativeOutput(City), model_settings=cold)
    made = (await typed.run(question)).output
    found["schema"] = {name: type(value).__name__ for name, value in made.model_dump().items()}
    return found


print(json.dumps(asyncio.run(main())))
