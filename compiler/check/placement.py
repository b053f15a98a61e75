"""Resources that contradict how the engine runs."""

from compiler.diagnostics import Diagnostic, Label
from compiler.source.tree import Mapping, find
from runtime.application import ModelSpec


def check_placement(tree: Mapping, spec: ModelSpec) -> list[Diagnostic]:
    """An engine that computes in the replica has no worker that could be elsewhere, or be several."""
    engine = spec.model.initialization.engine
    if engine.runs_in != "replica":
        return []
    found = []
    if spec.deployment_config.ray_actor_options.resources:
        _, span, _ = find(tree, ("deployment_config", "ray_actor_options", "resources"))
        message = f"{engine.name} computes in the replica itself: it cannot be on another node than its worker"
        hint = "name the node type in `scaling_config.resources_per_worker`"
        found.append(Diagnostic("E403", message, Label(span), help=hint))
    if spec.scaling_config.num_workers != 1:
        _, span, _ = find(tree, ("scaling_config", "num_workers"))
        message = f"{engine.name} has one worker, not {spec.scaling_config.num_workers}"
        found.append(Diagnostic("E403", message, Label(span), help="raise `num_gpus_per_worker` instead"))
    return found
