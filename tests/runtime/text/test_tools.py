"""Each format is told by its templates, which get tools and calls as they want them; what is forced can be read."""

import json
from pathlib import Path
from typing import get_args

import pytest
from llguidance import LLMatcher, LLTokenizer

from runtime.api.calls import forced_by
from runtime.errors import RequestError
from runtime.schema.generation import ToolFormatName
from runtime.text.calls import CallReader, Calls
from runtime.text.prompt import ChatTemplate, Message
from runtime.text.tools import FORMATS, Call, Tool, format_of

TEMPLATES = Path(__file__).with_name("templates")
EVERY = sorted(FORMATS)
WEATHER = Tool(
    "get_weather",
    "The weather in a city",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/Unit"}},
        "required": ["city", "unit"],
        "additionalProperties": False,
        "$defs": {"Unit": {"enum": ["C", "F"]}},
    },
)
NOW = Tool("now", None, None)
CONVERSATION = [
    Message("user", "Is it warm in Zürich?"),
    Message("assistant", None, calls=(("a1B2c3D4e", Call("get_weather", '{"city": "Zürich", "unit": "C"}')),)),
    Message("tool", '{"degrees": 21}', name="get_weather", answers="a1B2c3D4e"),
    Message("assistant", "It is: 21 °C."),
    Message("user", "And what time is it?"),
]


def template_of(name: str) -> ChatTemplate:
    """Templates of our own, in each family's syntax."""
    source = (TEMPLATES / f"{name}.jinja").read_text()
    return ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})


def test_the_registry_knows_every_format() -> None:
    assert sorted(get_args(ToolFormatName)) == EVERY == sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


@pytest.mark.parametrize("name", EVERY)
def test_a_format_is_told_by_its_template(name) -> None:
    template = template_of(name)
    assert template.tool_format is FORMATS[name]
    assert template.knows_tools


@pytest.mark.parametrize(
    "source",
    [
        "",
        "{{ tools }}",
        "<tool_call>\n<function=x>",
        "<tool_call>x<arg_key>",
        "<tool_call>[TOOL_CALLS]",
        "<|python_tag|>",
    ],
)
def test_what_is_not_plain_is_left_to_the_registry(source) -> None:
    assert format_of(source) is None


@pytest.mark.parametrize(
    ("source", "knows"),
    [
        ("{% if tools %}{% endif %}", True),
        ("{% if not tools is defined %}{% set tools = none %}{% endif %}", True),
        ("{% for tool in tools or [] %}{% endfor %}", True),
        ("{% set tools = 1 %}tools <tools> {{ message.tools }} {{ messages }}", False),
    ],
)
def test_whether_a_template_knows_tools(source, knows) -> None:
    assert ChatTemplate(source, {}).knows_tools is knows


@pytest.mark.parametrize("name", EVERY)
def test_a_template_for_tools_is_taken_where_there_are_tools(name) -> None:
    """Of models that have two: the other one knows nothing of them."""
    alone = template_of(name)
    two = ChatTemplate("plain", alone._special_tokens, alone._source)
    assert (two.knows_tools, two.tool_format) == (True, alone.tool_format)
    assert two.render(CONVERSATION, [NOW], FORMATS[name]) == alone.render(CONVERSATION, [NOW], FORMATS[name])
    assert two.render(CONVERSATION) == "plain"


@pytest.mark.parametrize("name", EVERY)
def test_a_conversation_with_a_call_as_the_model_reads_it(name, snapshot) -> None:
    assert template_of(name).render(CONVERSATION, [WEATHER, NOW], FORMATS[name]) == snapshot


@pytest.mark.parametrize("name", EVERY)
def test_no_tools_no_word_of_them(name) -> None:
    prompt = template_of(name).render([Message("user", "Hi")], (), FORMATS[name])
    assert "tool" not in prompt.lower() and "function" not in prompt


def test_a_template_that_does_not_take_the_calls_says_so() -> None:
    calls = (("call_1", Call("now", "{}")),)
    with pytest.raises(RequestError, match="ids of calls"):
        template_of("mistral").render([*CONVERSATION[:1], Message("assistant", None, calls=calls)], [NOW])


def test_filters_take_the_arguments_that_transformers_have() -> None:
    source = "{{ x | tojson(ensure_ascii=True, separators=(',', ':'), sort_keys=true) }}"
    source = "{% set x = {'b': 1, 'a': 'é'} %}" + source
    assert ChatTemplate(source, {}).render([]) == '{"a":"\\u00e9","b":1}'


def matches(grammar: str, text: str) -> bool:
    """Whether an answer may be this, and end there."""
    tokenizer = LLTokenizer("byte")
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_lark(grammar), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_str(text)
    return matcher.validate_tokens(tokens) == len(tokens) and matcher.consume_tokens(tokens) and matcher.is_accepting()


GOOD = {"get_weather": ['{"city": "Zürich", "unit": "C"}', '{"city":"</tool_call>","unit":"F"}'], "now": ["{}"]}
BAD = {"get_weather": ["{}", '{"city": "Bern", "unit": "K"}'], "now": ['{"a": 1}'], "other": ["{}"]}


@pytest.mark.parametrize("name", EVERY)
def test_what_is_forced_is_a_call_and_keeps_to_the_schema(name) -> None:
    row = FORMATS[name]
    constraint = forced_by(Calls(row, frozenset(GOOD), (WEATHER, NOW)))
    assert (constraint.kind, constraint.source) == ("lark", "tools")
    grammar = constraint.text
    for allowed, examples in ((True, GOOD), (False, BAD)):
        for tool, arguments in [(tool, each) for tool, several in examples.items() for each in several]:
            text = tool + row.after_name + arguments + row.after_arguments
            assert matches(grammar, text) is allowed, text
            assert not matches(grammar, text[:-1])
            if allowed:
                reader = CallReader(Calls(row, frozenset(GOOD), forced=True))
                (call,) = [*reader.feed(text), *reader.flush()]
                assert (call.name, json.loads(call.arguments)) == (tool, json.loads(arguments))
    only_now = forced_by(Calls(row, frozenset({"now"}), (WEATHER, NOW))).text
    assert matches(only_now, f"now{row.after_name}{{}}{row.after_arguments}")
    assert "get_weather" not in only_now
