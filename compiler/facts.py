"""What of a compiled model matters beyond it: to its clusters, to models that it stands on, to the whole registry.

Small and plain, so that it can be kept in the store: a model that has not changed is judged by its facts alone.
"""

from typing import Any, NamedTuple

from compiler.diagnostics import Diagnostic, Label, Span


class Ask(NamedTuple):
    """A custom resource that the model asks a node for: that of its workers, or that of its replica."""

    of_worker: bool
    name: str
    span: Span


class Deadline(NamedTuple):
    """When an answer of the model's must be complete. `span`: where that is set; None where no layer sets it."""

    seconds: float
    span: Span | None


class Mention(NamedTuple):
    """A text in which the name of another model may stand. `words`: what is left of it without the model's own."""

    words: tuple[str, ...]
    key: str
    place: Label
    model_id_place: Label


class Facts(NamedTuple):
    """See above.

    `adapters`: further names that clients know it by. `found`: what is found in the model by itself. `dead`: its
    overrides that say what they inherit. `needs`: for each model below, the paths at which this one would be another
    without that model's own value.
    """

    name: str
    file: str
    enabled: bool
    model_id: str
    adapters: dict[str, Span]
    own_ids: tuple[str, ...]
    card: dict[str, Any]
    id_span: Span
    layers: tuple[str, ...]
    effective: str
    engine: str
    gpus: float
    asks: tuple[Ask, ...]
    deadline: Deadline | None
    mentions: tuple[Mention, ...]
    found: tuple[Diagnostic, ...]
    dead: tuple[Diagnostic, ...]
    needs: dict[str, tuple[tuple[str, ...], ...]]
