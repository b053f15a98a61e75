"""`new`: the first lines of a model file."""

from compiler.emit import scalar


def model_file(model_id: str, extends: list[str]) -> str:
    """A model file that says nothing but what it is called and on what it stands."""
    lines = []
    if len(extends) == 1:
        lines.append(f"extends: {scalar(extends[0])}")
    elif extends:
        lines.append(f"extends: [{', '.join(scalar(name) for name in extends)}]")
    return "\n".join([*lines, "model_config:", f"  model_id: {scalar(model_id)}", ""])
