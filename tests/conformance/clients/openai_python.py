"""What the openai package makes of the API, as JSON. Every answer is checked against the package's own types."""

import json
import sys

import openai
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

url, model, question = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
asked = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0}


def checked(kind: type, raw: str) -> dict:
    """The client builds its objects without looking; this looks."""
    return kind.model_validate_json(raw, strict=True).model_dump()


def refusal(**changes: object) -> list:
    try:
        client.chat.completions.create(**{**asked, **changes})
    except openai.APIStatusError as error:
        return [type(error).__name__, error.code]
    return ["none"]


found: dict[str, object] = {"models": [each.id for each in client.models.list()]}
checked(Model, client.models.with_raw_response.retrieve(model).text)

whole = checked(ChatCompletion, client.chat.completions.with_raw_response.create(**asked).text)
found["answer"] = whole["choices"][0]["message"]["content"]
found["finish"] = whole["choices"][0]["finish_reason"]
found["usage_adds_up"] = (
    sum(whole["usage"][name] for name in ("prompt_tokens", "completion_tokens")) == whole["usage"]["total_tokens"]
)

text, usage = "", None
for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
    checked(ChatCompletionChunk, chunk.to_json())
    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    usage = chunk.usage or usage
found["streamed"] = text
found["stream_usage"] = usage.model_dump()["total_tokens"] == whole["usage"]["total_tokens"]

short = client.chat.completions.create(**asked, max_tokens=3)
found["cut"] = [short.choices[0].finish_reason, short.usage.completion_tokens]
found["stopped"] = client.chat.completions.create(**asked, stop=["France"]).choices[0].message.content
found["several"] = [each.index for each in client.chat.completions.create(**{**asked, "temperature": 1}, n=3).choices]
scored = client.chat.completions.create(**asked, max_tokens=2, logprobs=True, top_logprobs=3)
found["logprobs"] = [[each.token, len(each.top_logprobs)] for each in scored.choices[0].logprobs.content]
completion = client.completions.with_raw_response.create(
    model=model, prompt="One two three four", max_tokens=1, logprobs=1
)
found["completion_logprobs"] = len(checked(Completion, completion.text)["choices"][0]["logprobs"]["tokens"])

found["unknown_model"] = refusal(model="nobody/nothing")
found["too_long"] = refusal(messages=[{"role": "user", "content": "word " * 5000}])
found["wrong_value"] = refusal(temperature=9)
found["picture"] = refusal(
    messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x.png"}}]}]
)

schema = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
named = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
answer = client.chat.completions.create(**asked, max_tokens=100, response_format=named)
found["schema"] = {name: type(value).__name__ for name, value in json.loads(answer.choices[0].message.content).items()}

tool = {"type": "function", "function": {"name": "look_up", "description": "Look a city up.", "parameters": schema}}
forced = {"type": "function", "function": {"name": "look_up"}}
called = client.chat.completions.create(**asked, max_tokens=100, tools=[tool], tool_choice=forced).choices[0].message
found["tool"] = [called.tool_calls[0].function.name, sorted(json.loads(called.tool_calls[0].function.arguments))]
print(json.dumps(found))
