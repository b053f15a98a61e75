"""What editors know of the sources: JSON Schemas and settings for yaml-language-server, derived from the models.

The language server resolves no tags. It takes a tagged scalar for a string, whatever is in it, and `!unset` for the
empty one. So a key that takes an integer takes a string as well if that string is empty, is spelt like an integer or
holds a template; that a number in quotes passes too is for the compiler to find.
"""

import json
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from compiler.check.cluster import ClusterSpec
from compiler.check.fields import DISCRIMINATOR, every_field, models_in
from compiler.check.file_keys import FileKeys
from compiler.clusters import OVERLAY
from compiler.source.project import BASE, CLUSTERS, LOCKS, REGISTRY
from compiler.source.tags import TAGS
from runtime.application import ModelSpec
from runtime.engines.spec import InitializerConfig
from runtime.schema import Schema, describe
from runtime.schema.lock import ModelLock

Json = dict[str, Any]

FOLDER = "schemas"
"""Where the schemas lie, under the root."""
SOURCES = {
    "model": f"{REGISTRY}/*.yaml",
    "profile": f"{BASE}/**/*.yaml",
    "cluster": f"{CLUSTERS}/*.yaml",
    "lock": f"{LOCKS}/*.yaml",
}
"""The files that each schema is for."""

_SERVERS_KINDS = {"mapping": "mapping", "list": "sequence", "scalar": "scalar"}
_DRAFT = "http://json-schema.org/draft-07/schema#"
_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "`true` or `false`",
    "string": "a string",
    "array": "a list",
    "object": "a mapping",
    "null": "`null`",
}
_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_INTEGER = "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_SPELLINGS = {
    "integer": _INTEGER,
    "number": f"{_NUMBER}|{_INTEGER}",
    "boolean": "true|True|TRUE|false|False|FALSE",
    "null": "~|null|Null|NULL",
}
"""How a scalar of each type is written: all that there is of it behind a tag. Source: yaml.org/spec/1.2.2, 10.3.2."""
_TEMPLATE = r"\{\{"


def files() -> dict[str, bytes]:
    """The schemas and the settings: path under the root -> content."""
    contents = {_schema_file(kind): schema for kind, schema in schemas().items()}
    contents[".vscode/settings.json"] = vscode_settings()
    return {
        path: (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode() for path, content in contents.items()
    }


def schemas() -> dict[str, Json]:
    """A JSON Schema for each kind of file."""
    layer = _of(ModelSpec, override=True)
    about_itself = _of(FileKeys, override=False)
    layer_file = {**layer, "properties": {**about_itself["properties"], **layer["properties"]}}
    cluster = _of(ClusterSpec, override=False)
    overlay = {**_docs(cluster["properties"][OVERLAY]), **_without_docs(layer)}
    cluster_file = {**cluster, "properties": {**cluster["properties"], OVERLAY: overlay}}
    lock = _of(ModelLock, override=False)
    contents = {"model": layer_file, "profile": layer_file, "cluster": cluster_file, "lock": lock}
    return {kind: {"$schema": _DRAFT, "title": f"llm-serve {kind} file", **contents[kind]} for kind in SOURCES}


def vscode_settings() -> Json:
    """`.vscode/settings.json`; other editors take the same settings under the same names."""
    return {
        "yaml.schemas": {_schema_file(kind): pattern for kind, pattern in SOURCES.items()},
        "yaml.customTags": [f"{tag.name} {_SERVERS_KINDS[kind]}" for tag in TAGS.values() for kind in tag.kinds],
    }


def modeline(kind: str, file: str) -> str:
    """The comment that names the schema of `file`, for editors that read no settings."""
    up = "../" * (len(PurePosixPath(file).parts) - 1)
    return f"# yaml-language-server: $schema={up}{_schema_file(kind)}"


def _schema_file(kind: str) -> str:
    return f"{FOLDER}/{kind}.schema.json"


def _of(model: type[Schema], *, override: bool) -> Json:
    inner = [each for _, field in every_field(model) for each in models_in(field.annotation)]
    sections = list(dict.fromkeys([model, *inner]))
    for each in sections:
        describe(each)
    for each in reversed(sections):  # the inner ones first: an outer one takes them as they are
        each.model_rebuild(force=True)
    schema = model.model_json_schema()
    builder = _Builder(schema.get("$defs", {}), override)
    return {"type": "object", **_docs(schema), **builder.keys(schema)}


class _Builder:
    """Writes pydantic's schema anew, every definition in place.

    With `override`, for a layer: nothing is required, and each value may carry a tag.
    """

    def __init__(self, definitions: dict[str, Json], override: bool) -> None:
        self.definitions = definitions
        self.override = override

    def keys(self, schema: Json) -> Json:
        """The part of a mapping's schema that is about its keys."""
        others = schema.get("additionalProperties", True)
        kept: Json = {"properties": {key: self.value(each) for key, each in schema.get("properties", {}).items()}}
        if "required" in schema and not self.override:
            kept["required"] = schema["required"]
        return {**kept, "additionalProperties": others if isinstance(others, bool) else self.value(others)}

    def value(self, schema: Json, *, item: bool = False) -> Json:
        """What a key or, with `item`, a list's item may hold."""
        schema = self._resolved(schema)
        if "discriminator" in schema:
            return self._union(schema)
        alternatives = [self._resolved(each) for each in schema.get("anyOf", [schema])]
        words = [word for each in alternatives for word in each.get("enum", [each["const"]] if "const" in each else [])]
        others = [each for each in alternatives if "enum" not in each and "const" not in each]
        if not all("type" in each for each in others):  # `JsonValue`: anything goes
            return _docs(schema)
        merged = self._merged(others, words, item)
        if not words:
            return {**_docs(schema), **merged}
        enum = {"type": "string", "enum": words, "errorMessage": _expected(others, words)}
        return {**_docs(schema), "anyOf": [enum, merged]} if merged["type"] else {**_docs(schema), **enum}

    def _merged(self, alternatives: list[Json], words: list[str], item: bool) -> Json:
        """Several types in one schema: each keyword is about one type only, and is silent about the others."""
        merged: Json = {"type": [each["type"] for each in alternatives]}
        patterns = [_text_pattern(each) for each in alternatives if each["type"] == "string"]
        for each in alternatives:
            merged |= self._keywords(each)
        if self.override:
            patterns += _tagged(merged["type"], words, item)
            if "string" not in merged["type"]:
                merged["type"].append("string")
        if patterns and None not in patterns:
            merged["pattern"] = "|".join(str(pattern) for pattern in patterns)
        message = "errorMessage"
        if {"object", "array"} & {*merged["type"]}:
            message = "patternErrorMessage"  # the other would take the place of messages about keys
        if message == "errorMessage" or "pattern" in merged:
            merged[message] = _expected(alternatives, words)
        if len(merged["type"]) == 1:
            merged["type"] = merged["type"][0]
        return merged

    def _keywords(self, schema: Json) -> Json:
        """What a schema says of values of its type."""
        match schema["type"]:
            case "object":
                return self.keys(schema)
            case "array":
                limits: Json = {key: schema[key] for key in ("minItems", "maxItems") if key in schema}
                return {"items": self.value(schema.get("items", {}), item=True), **limits}
            case "integer" | "number":
                names = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
                return {key: schema[key] for key in names if key in schema}
        return {}

    def _union(self, schema: Json) -> Json:
        """A mapping of which one key says what the others may be. Without it, all members' keys are open."""
        members = {name: self._resolved({"$ref": ref}) for name, ref in schema["discriminator"]["mapping"].items()}
        closed = {name: self._member([member]) for name, member in members.items()}
        cases = [{"if": _says([name]), "then": closed[name]} for name in members]
        others = {"if": _says(list(members)), "else": self._member(list(members.values()))}
        base = self._merged([{"type": "object"}], [], item=False)
        base["properties"] = {DISCRIMINATOR: self._chooser(members)}
        return {**_docs(schema), **base, "allOf": [*cases, others]}

    def _member(self, members: list[Json]) -> Json:
        """The keys of these members of a union together."""
        choices: dict[str, list[Json]] = {}
        for member in members:
            for key, each in member["properties"].items():
                if each not in choices.setdefault(key, []):
                    choices[key].append(each)
        known = {
            key: self.value(each[0]) if len(each) == 1 else _any(map(self.value, each)) for key, each in choices.items()
        }
        return {"properties": {**known, DISCRIMINATOR: {}}, "additionalProperties": False}

    def _chooser(self, members: dict[str, Json]) -> Json:
        """The discriminator: the members' names in any letter case, and what each member is."""
        describe(InitializerConfig)
        about = InitializerConfig.model_fields[DISCRIMINATOR].description or ""
        lines = [about, "", *(f"- `{name}`: {_text(member)}" for name, member in members.items())]
        message = _expected([], list(members))
        patterns = [_named(list(members)), *(_tagged([], list(members), item=False) if self.override else ())]
        spellings = {"type": "string", "pattern": "|".join(patterns), "errorMessage": message}
        docs = {"description": "\n".join(lines), "markdownDescription": "\n".join(lines)}
        return {**docs, "anyOf": [{"type": "string", "enum": list(members), "errorMessage": message}, spellings]}

    def _resolved(self, schema: Json) -> Json:
        """`schema` with the definition that it refers to, its own docs first."""
        if "$ref" not in schema:
            return schema
        name = schema["$ref"].rpartition("/")[2]
        return {**self.definitions[name], **{key: value for key, value in schema.items() if key != "$ref"}}


def _docs(schema: Json) -> Json:
    """What an editor shows on hover. The server shows backticks of a plain description as they are."""
    text, default = _text(schema), schema.get("default")
    if "default" in schema and not (isinstance(default, dict) and default):  # a mapping's keys say theirs
        text = f"{text} Default: `{json.dumps(default, ensure_ascii=False)}`.".strip()
    docs = {"description": text, "markdownDescription": text} if text else {}
    return {**docs, "default": default} if isinstance(default, str | int | float) else docs


def _without_docs(schema: Json) -> Json:
    return {key: value for key, value in schema.items() if key not in ("description", "markdownDescription")}


def _text(schema: Json) -> str:
    return " ".join(schema.get("description", "").split())


def _any(schemas: Iterable[Json]) -> Json:
    return {"anyOf": list(schemas)}


def _text_pattern(schema: Json) -> str | None:
    """What a string must look like, its length included; None where anything goes."""
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    if not least and not most:
        pattern: str | None = schema.get("pattern")
        return pattern
    return rf"(?=^[\s\S]{{{least},{most}}}$)(?:{schema.get('pattern', '')})"


def _tagged(types: list[str], words: list[str], item: bool) -> list[str]:
    """The strings that a value of these types may be behind a tag. On an item of a list only templates stand."""
    templates = [_TEMPLATE] if words or {"integer", "number", "boolean", "string"} & {*types} else []
    spellings = [_SPELLINGS[name] for name in types if name in _SPELLINGS]
    return templates if item else [f"^({'|'.join(['', *spellings])})$", *templates]


def _expected(alternatives: list[Json], words: list[str]) -> str:
    kinds = [_WORDS[each["type"]] for each in alternatives]
    patterns = [f" that matches {each['pattern']}" if "pattern" in each else "" for each in alternatives]
    quoted = [f"`{word}`" for word in words]
    return f"Expected {' or '.join([*quoted, *map(str.__add__, kinds, patterns)])}."


def _named(names: list[str]) -> str:
    """These names in any letter case, for JSON Schema's regular expressions have no flags."""
    letters = "[{0}{1}]"
    cased = [
        "".join(letters.format(c.upper(), c.lower()) if c.isalpha() else re.escape(c) for c in name) for name in names
    ]
    return f"^({'|'.join(cased)})$"


def _says(names: list[str]) -> Json:
    """True of a mapping whose discriminator is one of `names`."""
    chosen = {DISCRIMINATOR: {"type": "string", "pattern": _named(names)}}
    return {"type": "object", "required": [DISCRIMINATOR], "properties": chosen}
