"""What langchain-openai makes of the API, as JSON."""

import json
import sys

import openai
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

url, model, question = sys.argv[1:]
chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=model, temperature=0, max_retries=0)


class look_up(BaseModel):
    """Look a city up."""

    city: str = Field(max_length=20)
    people: int


found: dict[str, object] = {}
answer = chat.invoke(question)
found["answer"] = answer.content
found["finish"] = answer.response_metadata["finish_reason"]
found["usage_adds_up"] = answer.usage_metadata["total_tokens"] > answer.usage_metadata["output_tokens"] > 0
found["streamed"] = "".join(str(chunk.content) for chunk in chat.stream(question))
found["stopped"] = chat.invoke(question, stop=["France"]).content
try:
    ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="nobody/nothing", max_retries=0).invoke(question)
except openai.APIStatusError as error:
    found["unknown_model"] = ["NotFoundError" if isinstance(error, openai.NotFoundError) else str(error), error.code]
structured = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=model, temperature=0, max_tokens=100)
made = structured.with_structured_output(look_up, method="json_schema").invoke(question)
found["schema"] = {name: type(value).__name__ for name, value in made.model_dump().items()}
called = structured.bind_tools([look_up], tool_choice="look_up").invoke(question)
required = look_up.model_json_schema()["required"]  # the schema lets other arguments in
found["tool"] = [called.tool_calls[0]["name"], sorted(set(called.tool_calls[0]["args"]) & set(required))]
print(json.dumps(found))
