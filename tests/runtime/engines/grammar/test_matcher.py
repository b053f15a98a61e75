"""What may come next, and how much it may cost to know."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from random import Random

import jsonschema
import pytest
import pytest_asyncio
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.api.formats import schema_text
from runtime.engines.contract import Constraint, Sampling
from runtime.engines.grammar import matcher as subject
from runtime.engines.grammar.matcher import Grammars, Matcher
from runtime.engines.hf.sampling import Sampler
from runtime.errors import EngineDeadError, GrammarError
from tests.runtime.support import ByteTokenizer

END = 300
OTHER_END = 301
PIECES = ("", '"', '":', '": ', ", ", "true", "false", "null", '{"', '"}', "name", "12", "\u00e9", "\n\n", "  ")


class Pieces(ByteTokenizer):
    """Bytes, then some pairs and words, then two control tokens that end an answer, and places that nobody uses."""

    def piece(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return PIECES[token - 256].encode() if token - 256 < len(PIECES) else b""


SIZE = 310


@pytest_asyncio.fixture
async def grammars() -> AsyncIterator[Grammars]:
    made = Grammars(Pieces(), SIZE, [END, OTHER_END])
    yield made
    made.close()


def schema(content: dict) -> Constraint:
    return Constraint("json_schema", schema_text(content, "schema"))


def lark(text: str) -> Constraint:
    return Constraint("lark", text)


def allowed(matcher: Matcher) -> set[bytes | int]:
    """The text of tokens that may come, and the numbers of those that have none."""
    tokens = map(int, matcher.look().nonzero()[0])
    return {Pieces().piece(token) or token for token in tokens}


async def test_the_end_token_comes_exactly_where_the_grammar_ends(grammars: Grammars) -> None:
    matcher = await grammars.matcher(lark('start: "a" "b"{0,2}'))
    assert (allowed(matcher), matcher.may_end, matcher.must_end) == ({b"a"}, False, False)
    matcher.accept(b"a")
    assert (allowed(matcher), matcher.may_end, matcher.must_end) == ({b"b", END, OTHER_END}, True, False)
    matcher.accept(b"bb")
    assert (allowed(matcher), matcher.may_end, matcher.must_end) == ({END, OTHER_END}, True, True)


async def test_answers_go_their_own_ways(grammars: Grammars) -> None:
    one, other = [await grammars.matcher(lark('start: "ab" | "cd"')) for _ in range(2)]
    one.accept(b"a")
    assert (allowed(one), allowed(other)) == ({b"b"}, {b"a", b"c"})


async def test_what_is_not_allowed_is_a_problem(grammars: Grammars) -> None:
    matcher = await grammars.matcher(lark('start: "a"'))
    matcher.accept(b"x")
    assert matcher.problem and not matcher.may_end and not matcher.must_end
    with pytest.raises(GrammarError):
        matcher.look()


async def test_a_grammar_is_made_once(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(subject, "problem_with", lambda grammar: made.append(grammar) or "")
    for number in [*range(40), 39, 38, 0]:
        await grammars.matcher(lark(f'start: "{number}"'))
    assert made == [f'start: "{number}"' for number in [*range(40), 0]]  # 32 are kept


async def test_a_closed_one_makes_nothing(grammars: Grammars) -> None:
    grammars.close()
    with pytest.raises(EngineDeadError):
        await grammars.matcher(lark('start: "a"'))


def nested(depth: int) -> dict:
    inner: dict = {"type": "string"}
    for _ in range(depth):
        inner = {"type": "array", "items": inner}
    return inner


def doubling(kind: str) -> dict:
    """Each definition has the next one twice."""
    steps = {f"d{n}": {kind: [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    return {"$defs": {**steps, "d40": {"type": "string"}}, "$ref": "#/$defs/d0"}


def fixed(number: int) -> dict:
    """A list of the next definition, twice."""
    return {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{number + 1}"}] * 2, "items": False, "minItems": 2}


REFUSED = {
    "wrong type": ({"type": "objec"}, "Invalid type: objec"),
    "unsupported": ({"type": "array", "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
    "unsupported, and lenience asked for": ({"not": {}, "x-guidance": {"lenient": True}}, 'keys: ["not"]'),
    "unknown format": ({"type": "string", "format": "colour"}, "Unknown format: colour"),
    "look-ahead": ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    "address": ({"$ref": "http://127.0.0.1:9/schema.json"}, "does not fetch"),
    "file": ({"$ref": "file:///etc/passwd"}, "does not fetch"),
    "nowhere": ({"$ref": "#/$defs/x"}, "does not exist"),
    "a circle": ({"$ref": "#"}, "nothing can match it"),
    "a wider circle": ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, ""),
    "nothing fits": ({"type": "integer", "minimum": 5, "maximum": 3}, ""),
    "items": ({"type": "array", "minItems": 10**9}, "time or memory"),
    "items of a kind": ({"type": "array", "maxItems": 10**9, "items": {"type": "integer"}}, "time or memory"),
    "multiples": ({"type": "integer", "multipleOf": 999_983}, "time or memory"),
    "patterns in one": ({"allOf": [{"type": "string", "pattern": f".*[a-z]{{{n}}}.*"} for n in range(40)]}, "memory"),
    "choices in all": (
        {"allOf": [{"anyOf": [{"properties": {f"{n}{m}": {"pattern": f"a{m}"}}} for m in range(8)]} for n in range(4)]},
        "",
    ),
    "optional properties": ({"type": "object", "properties": {f"{n}": {"type": "null"} for n in range(2000)}}, "items"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
async def test_bad_schemas_are_refused_and_cost_little(grammars: Grammars, content: dict, reason: str) -> None:
    begin = time.process_time()
    with pytest.raises(GrammarError) as caught:
        await grammars.matcher(schema(content))
    assert reason in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert time.process_time() - begin < 5  # of this process: what it takes to try has its own limit


LARGE = {
    "deep": nested(30),
    "enumeration": {"enum": [f"value number {n}" for n in range(2500)]},
    "backtracking": {"type": "string", "pattern": "^(a+)+$"},
    "repetition": {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
    "states": {"type": "string", "pattern": "^.*a.{500}$"},
    "long": {"type": "string", "minLength": 10**9},
    "recursive": {"type": "object", "properties": {"a": {"$ref": "#"}}},
    "doubling, all": doubling("allOf"),
    "doubling, any": doubling("anyOf"),
    "forced": {"$defs": {f"d{n}": fixed(n) for n in range(30)} | {"d30": {"const": "x" * 999}}, "$ref": "#/$defs/d0"},
    "figures": {"type": "integer", "minimum": 0, "maximum": 10**300},
}


@pytest.mark.parametrize("content", LARGE.values(), ids=LARGE)
async def test_large_schemas_are_followed_as_far_as_that_costs_little(grammars: Grammars, content: dict) -> None:
    """An answer may have to end in the middle; it never holds up the others."""
    matcher = await grammars.matcher(schema(content))
    random, begin = Random(1), time.process_time()
    for _ in range(100):
        try:
            choices = matcher.look().nonzero()[0]
        except GrammarError as error:
            assert "too many" in str(error)
            break
        if matcher.must_end:
            break
        going_on = [int(token) for token in choices if token not in (END, OTHER_END)]
        matcher.accept([random.choice(going_on)])
    assert time.process_time() - begin < 20


async def test_others_are_served_while_a_grammar_is_tried(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    await grammars.matcher(lark('start: "a"'))
    served, tried = threading.Event(), subject.problem_with
    monkeypatch.setattr(subject, "problem_with", lambda grammar: tried(grammar) if served.wait(60) else "")
    slow = asyncio.create_task(grammars.matcher(schema({"type": "integer", "multipleOf": 999_983})))
    await asyncio.sleep(0)
    for _ in range(100):
        await grammars.matcher(lark('start: "a"'))
        await asyncio.sleep(0)
    assert not slow.done()
    served.set()
    with pytest.raises(GrammarError):
        await slow


@pytest.mark.parametrize(
    "text", ["start:", "start: %json {", 'start: "', "start: <|im_end|>", "start: other", "%", "", "\0"]
)
async def test_bad_grammars_are_refused(grammars: Grammars, text: str) -> None:
    try:
        matcher = await grammars.matcher(lark(text))
    except GrammarError:
        return
    assert matcher.may_end  # an empty rule is one that matches nothing but the empty text


@pytest.mark.parametrize("text", ["", "{", "[]", '"a"', "NaN", '{"a": NaN}', '{"enum": ["\\ud800"]}'])
async def test_what_is_no_json_is_refused(grammars: Grammars, text: str) -> None:
    with pytest.raises(GrammarError):
        await grammars.matcher(Constraint("json_schema", text))


SCALARS = st.sampled_from([
    {"type": "integer", "minimum": -5, "maximum": 1000},
    {"type": "boolean"},
    {"type": "null"},
    {"type": "string", "maxLength": 12},
    {"type": "string", "pattern": "^[a-z]{1,4}-[0-9]{2}$"},
    {"type": "string", "format": "date"},
    {"enum": ["red", "green", 3, None]},
    {"const": "x"},
])  # fmt: skip


def _objects(inner: st.SearchStrategy[dict]) -> st.SearchStrategy[dict]:
    fields = st.dictionaries(st.sampled_from(["name", "a", "b c", "\u00e9", 'quo"te']), inner, min_size=1, max_size=3)
    return fields.map(
        lambda each: {"type": "object", "properties": each, "required": sorted(each), "additionalProperties": False}
    )


SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        _objects(inner),
        inner.map(lambda each: {"type": "array", "items": each, "minItems": 1, "maxItems": 3}),
        st.lists(inner, min_size=2, max_size=3).map(lambda each: {"anyOf": each}),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=SCHEMAS, seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.0, 1.0, 2.0]))
def test_whatever_the_model_says_the_answer_matches(content: dict, seed: int, temperature: float) -> None:
    """Random logits, which would say anything: the answer that has ended is as the schema wants it."""
    grammars = Grammars(Pieces(), SIZE, [END, OTHER_END])
    matcher = asyncio.run(grammars.matcher(schema(content)))
    grammars.close()
    device = torch.device("cpu")
    sampling = Sampling(600, temperature=temperature, top_p=0.9, min_p=0.01, repetition_penalty=1.2, seed=seed)
    sampler, generator = Sampler(sampling, [1], [END, OTHER_END], device), torch.Generator().manual_seed(seed)
    text = b""
    for _ in range(600):
        logits = 8 * torch.randn(SIZE, generator=generator)
        token = int(sampler.choose(logits, torch.from_numpy(matcher.look())))
        if token in (END, OTHER_END):
            assert matcher.may_end
            break
        sampler.accept(token)
        matcher.accept([token])
        text += Pieces().piece(token)
        if matcher.must_end:
            break
    assert matcher.may_end
    jsonschema.validate(json.loads(text.decode()), content, format_checker=jsonschema.FormatChecker())
