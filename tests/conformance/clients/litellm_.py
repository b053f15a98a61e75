"""What LiteLLM makes of the API, as JSON."""

import json
import sys

import litellm

url, model, question = sys.argv[1:]
litellm.telemetry = False
asked = {
    "model": f"openai/{model}",
    "api_base": f"{url}/v1",
    "api_key": "none",
    "messages": [{"role": "user", "content": question}],
    "temperature": 0,
    "num_retries": 0,
}

found: dict[str, object] = {}
answer = litellm.completion(**asked)
found["answer"] = answer.choices[0].message.content
found["finish"] = answer.choices[0].finish_reason
found["usage_adds_up"] = answer.usage.prompt_tokens + answer.usage.completion_tokens == answer.usage.total_tokens
found["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True))
found["stopped"] = litellm.completion(**asked, stop=["France"]).choices[0].message.content
short = litellm.completion(**asked, max_tokens=3)
found["cut"] = [short.choices[0].finish_reason, short.usage.completion_tokens]
try:
    litellm.completion(**{**asked, "model": "openai/nobody/nothing"})
except litellm.NotFoundError as error:
    found["unknown_model"] = [type(error).__name__, "model_not_found" if "nobody/nothing" in str(error) else str(error)]
try:
    litellm.completion(**{**asked, "messages": [{"role": "user", "content": "word " * 5000}]})
except litellm.ContextWindowExceededError:
    found["context_window"] = True
print(json.dumps(found))
