"""Strict YAML: parser events composed into a located tree.

YAML 1.2 core scalars, one document, no aliases, anchors or merge keys, no tags but our own, no duplicate or
non-string keys. Composing from events instead of loading makes every position available, and leaves nothing to
expand: an alias is refused where it stands. Source: yaml.org/spec/1.2.2, chapter 10.3 (core schema).
"""

import re

from yaml import MarkedYAMLError
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.reader import ReaderError

from compiler.diagnostics import MAX_FINDINGS, ConfigErrors, Diagnostic, Label, Span, at_most, did_you_mean
from compiler.source.tags import TAGS, TEMPLATE, UNSET, Kind
from compiler.source.tree import Entry, Mapping, Node, Scalar, ScalarValue, Sequence

MAX_BYTES = 256 * 1024
"""Largest file. The largest real model file seen has 8 KiB; this bounds time and memory for hostile ones."""
MAX_DEPTH = 64
"""Deepest nesting; a complete model file has 7."""
MAX_VALUES = 10_000
"""Most keys and values in a file, which bounds the time of every check; a complete model file has 150."""
MAX_TEMPLATES = 256
"""Most templates in a file: each takes Jinja2 a fraction of a millisecond. A large profile has ten."""
MAX_INT_DIGITS = 18
"""Longest integer: what fits 64 bits in every reader of the output."""

_OTHER_LINE_BREAK = re.compile("[\x85\u2028\u2029]|\r(?!\n)")
"""Ends a line for some readers of YAML and not for others, so that a comment may hide a setting."""
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_FIRST_OF_NUMBER = frozenset("+-.0123456789")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def parse(data: bytes, file: str) -> Mapping:
    """The tree of one file.

    Raises ConfigErrors with every place of `file` at fault that can be told apart; after a syntax error the rest
    of a file has no meaning.
    """
    return _Composer(file).compose(_decode(data, file))


def _decode(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        raise _refusal("E102", f"file has {len(data)} bytes; at most {MAX_BYTES} are read", Span(file, 1, 1, 1, 1))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = len(data[data.rfind(b"\n", 0, error.start) + 1 : error.start].decode("utf-8", "replace")) + 1
        span = Span(file, line, column, line, column + 1)
        raise _refusal("E103", f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8", span) from error
    if text.startswith("\ufeff"):
        hint = "save it as UTF-8 without BOM"
        raise _refusal("E103", "file starts with a byte order mark", Span(file, 1, 1, 1, 2), hint=hint)
    if found := _OTHER_LINE_BREAK.search(text):
        line, start = text.count("\n", 0, found.start()) + 1, text.rfind("\n", 0, found.start()) + 1
        column = found.start() - start + 1
        hint = "end lines with LF, or with CR LF; in a quoted string write it as an escape"
        problem = f"U+{ord(found[0]):04X} is not a line break that every reader of YAML knows"
        raise _refusal("E103", problem, Span(file, line, column, line, column + 1), hint=hint)
    return text


def _refusal(code: str, message: str, span: Span, *others: Label, hint: str | None = None) -> ConfigErrors:
    return ConfigErrors([Diagnostic(code, message, Label(span), others, hint)])


class _Composer:
    """Turns the events of one file into nodes; findings that do not stop the reading are collected."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Diagnostic] = []
        self.values = self.templates = 0

    def compose(self, text: str) -> Mapping:
        root = self._root(text)
        if root is None or (isinstance(root, Scalar) and root.value is None):
            empty = Span(self.file, 1, 1, 1, 1)
            raise _refusal("E108", "file is empty; expected a mapping such as `model_config:`", empty)
        if not isinstance(root, Mapping):
            self.found.append(Diagnostic("E108", "top level must be a mapping", Label(root.span)))
        if self.found:
            raise ConfigErrors(self.found)
        assert isinstance(root, Mapping)
        return root

    def _root(self, text: str) -> Node | None:
        """What the file's one document is; None where it has none."""
        try:
            return self._documents(text)
        except ReaderError as error:
            before = text.encode()[: error.position].decode(errors="ignore")  # the position counts bytes
            line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
            span = Span(self.file, line, column, line, column + 1)
            raise ConfigErrors([*self.found, Diagnostic("E103", str(error.reason), Label(span))]) from error
        except MarkedYAMLError as error:
            raise ConfigErrors([*self.found, self._syntax_error(error, text)]) from error

    def _documents(self, text: str) -> Node | None:
        self._next = CParser(text).get_event
        root: Node | None = None
        while event := self._next():
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    self._report("E106", "a second document starts here; a file holds one", event)
                    break
                root = self._node(self._next(), depth=1)
                if root.tag:
                    problem = f"{root.tag} has no meaning for a whole file"
                    self.found.append(Diagnostic("E106", problem, Label(root.span)))
        return root

    def _syntax_error(self, error: MarkedYAMLError, text: str) -> Diagnostic:
        mark = error.problem_mark or error.context_mark
        assert mark is not None
        line, column = mark.line + 1, mark.column + 1
        lines = text.split("\n")
        while line > 1 and (line > len(lines) or not lines[line - 1].strip()):  # the end: point behind the last text
            line -= 1
            column = len(lines[line - 1]) + 1
        message = ": ".join(part for part in (error.context, error.problem) if part)
        hint = "indent with spaces" if "\t" in lines[line - 1] else None
        begun = error.context_mark
        others: tuple[Label, ...] = ()
        if begun is not None and begun.line + 1 < line:
            start = Span(self.file, begun.line + 1, begun.column + 1, begun.line + 1, begun.column + 2)
            others = (Label(start, "begun here"),)
        return Diagnostic("E104", message, Label(Span(self.file, line, column, line, column + 1)), others, hint)

    def _node(self, event: Event | None, depth: int) -> Node:
        assert isinstance(event, NodeEvent)  # the parser's grammar
        self.values += 1
        if len(self.found) > MAX_FINDINGS or depth > MAX_DEPTH or self.values > MAX_VALUES:
            raise self._too_much(event, depth)
        if isinstance(event, AliasEvent):
            self._report("E106", f"alias *{event.anchor}: write the value out, or move it into a layer", event)
            return Scalar(None, self._span(event))
        if event.anchor is not None:
            self._report("E106", f"anchor &{event.anchor}: share values through a layer instead", event)
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        if isinstance(event, MappingStartEvent):
            return self._mapping(event, depth)
        assert isinstance(event, SequenceStartEvent)
        return self._sequence(event, depth)

    def _mapping(self, start: MappingStartEvent, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        last: Span | None = None
        tag = self._tag(start, "mapping") if start.tag is not None else None
        while not isinstance(event := self._next(), MappingEndEvent):
            named = self._node(event, depth + 1)
            key = self._key(named, event)
            value = self._node(self._next(), depth + 1)
            last = value.span
            if key is None:
                continue
            if key in entries:
                first = Label(entries[key].key_span, "first set here")
                again = Label(named.span, "and again here")
                self.found.append(Diagnostic("E105", f"key `{key}` is set twice", again, (first,)))
            entries[key] = Entry(key, named.span, value)
        return Mapping(entries, self._cover(start, event, last), tag)

    def _sequence(self, start: SequenceStartEvent, depth: int) -> Sequence:
        items: list[Node] = []
        tag = self._tag(start, "list") if start.tag is not None else None
        while not isinstance(event := self._next(), SequenceEndEvent):
            item = self._node(event, depth + 1)
            items.append(item)
            if item.tag not in (None, TEMPLATE):
                self._report("E106", f"{item.tag} has no meaning on a list's item; put it on the list", event)
        return Sequence(tuple(items), self._cover(start, event, items[-1].span if items else None), tag)

    def _cover(self, start: MappingStartEvent | SequenceStartEvent, end: Event, last: Span | None) -> Span:
        """From `start` to the closing bracket, or in block style, where there is none, to the last child."""
        final = self._span(end) if last is None or start.flow_style else last
        begin = start.start_mark
        assert begin is not None
        return Span(self.file, begin.line + 1, begin.column + 1, final.end_line, final.end_column)

    def _key(self, node: Node, event: Event | None) -> str | None:
        if node.tag:
            self._report("E106", f"{node.tag} has no meaning on a key; put it behind the colon", event)
        if isinstance(node, Scalar) and isinstance(node.value, str):
            if node.value == "<<" and isinstance(event, ScalarEvent) and event.implicit[0]:
                self._report("E106", "merge key `<<`: use `extends` instead", event)
                return None
            return node.value
        self._report("E106", "a key must be a string; put it in quotes", event)
        return None

    def _scalar(self, event: ScalarEvent) -> Scalar:
        span = self._span(event)
        # quoted or a block: a string, whatever it looks like
        is_plain = event.implicit[0] or (event.tag is not None and not event.style)
        tag = self._tag(event, "scalar") if event.tag is not None else None
        value = self._resolve(event.value, span) if is_plain else event.value
        if tag == UNSET and value is not None:
            self._report("E106", f"{UNSET} stands alone, without a value", event)
        if tag == TEMPLATE:
            return self._template(event, span)
        return Scalar(value, span, tag)

    def _template(self, event: ScalarEvent, span: Span) -> Scalar:
        from compiler.source.expression import mistakes  # needs Jinja2, which no file without templates should load

        self.templates += 1
        if self.templates > MAX_TEMPLATES:
            raise self._limit(f"more than {MAX_TEMPLATES} templates", event)
        self.found += [Diagnostic("E209", mistake, Label(span)) for mistake in mistakes(event.value)]
        return Scalar(event.value, span, TEMPLATE)

    def _resolve(self, text: str, span: Span) -> ScalarValue:
        if text in _NULL:
            return None
        if text in _BOOL:
            return _BOOL[text]
        if text[0] not in _FIRST_OF_NUMBER:
            return text
        if _INT.fullmatch(text):
            return self._int(text.lstrip("+-0"), 10, span) * (-1 if text.startswith("-") else 1)
        if _OCTAL_OR_HEX.fullmatch(text):
            return self._int(text[2:].lstrip("0"), 8 if text[1] == "o" else 16, span)
        if _FLOAT.fullmatch(text):
            return self._float(text, span)
        if _NOT_FINITE.fullmatch(text):
            self.found.append(Diagnostic("E107", f"`{text}` is not a number that a config can hold", Label(span)))
            return 0.0
        return text

    def _int(self, digits: str, base: int, span: Span) -> int:
        value = int(digits or "0", base) if len(digits) <= 3 * MAX_INT_DIGITS else None  # 3: octal is no longer
        if value is None or value >= 10**MAX_INT_DIGITS:
            problem = f"integer of more than {MAX_INT_DIGITS} digits"
            self.found.append(Diagnostic("E107", problem, Label(span), help="put it in quotes if it is a name"))
            return 0
        return value

    def _float(self, text: str, span: Span) -> float:
        value = float(text)
        if value in (float("inf"), float("-inf")):
            self.found.append(Diagnostic("E107", "number is too large for a float", Label(span)))
            return 0.0
        if value == 0 and re.match(r"[-+.0]*[1-9]", text):
            self.found.append(Diagnostic("E107", "number is too small for a float: it would be 0", Label(span)))
        return value

    def _tag(self, event: ScalarEvent | MappingStartEvent | SequenceStartEvent, kind: Kind) -> str | None:
        """The event's tag, if it is one that goes with its kind."""
        name = str(event.tag)
        if name == "!" and kind == "scalar":  # `! x` is YAML's way to say "a string"
            return None
        if name not in TAGS:
            hint = f"did you mean `{guess}`?" if (guess := did_you_mean(name, TAGS)) else f"there are {', '.join(TAGS)}"
            problem = f"tag {name} is not part of the configuration language"
            self.found.append(Diagnostic("E106", problem, Label(self._span(event)), help=hint))
            return None
        if kind not in TAGS[name].kinds:
            self._report("E106", f"{name} goes with a {' or a '.join(TAGS[name].kinds)}, not with a {kind}", event)
            return None
        return name

    def _too_much(self, event: Event, depth: int) -> ConfigErrors:
        if len(self.found) > MAX_FINDINGS:
            return ConfigErrors(at_most(self.found, self.file))
        if depth > MAX_DEPTH:
            return self._limit(f"nested deeper than {MAX_DEPTH} levels", event)
        return self._limit(f"more than {MAX_VALUES} keys and values", event)

    def _limit(self, problem: str, event: Event) -> ConfigErrors:
        return ConfigErrors([*self.found, Diagnostic("E102", problem, Label(self._span(event)))])

    def _report(self, code: str, message: str, event: Event | None) -> None:
        self.found.append(Diagnostic(code, message, Label(self._span(event))))

    def _span(self, event: Event | None) -> Span:
        assert event is not None  # the parser closes what it opens
        start, end = event.start_mark, event.end_mark
        assert start is not None and end is not None  # the C parser marks every event
        return Span(self.file, start.line + 1, start.column + 1, end.line + 1, end.column + 1)
