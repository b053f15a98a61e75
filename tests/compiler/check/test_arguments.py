"""The tables of library arguments, and that the table of renames fits them."""

import inspect

import pytest
from llama_cpp import Llama
from ray.runtime_env import RuntimeEnv
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import DeploymentSchema, RayActorOptionsSchema

from compiler.check.arguments import table
from compiler.check.fields import every_field, fields, marker, models_in
from compiler.check.renames import RENAMES
from runtime.application import ModelSpec
from runtime.schema import LibraryArguments, deployment

INSTALLED = {
    "autoscaling_config": set(AutoscalingConfig.model_fields),
    "deployment": set(DeploymentSchema.model_fields),
    "llama": {*inspect.signature(Llama.__init__).parameters} - {"self", "kwargs"},
    "ray_actor_options": set(RayActorOptionsSchema.model_fields),
    "runtime_env": {name for name in RuntimeEnv.known_fields if not name.startswith("_")},
}
KNOWN = {
    "engine_args": {"max_model_len", "gpu_memory_utilization", "tensor_parallel_size", "quantization", "max_num_seqs"},
    "from_pretrained": {"attn_implementation", "device_map", "dtype", "quantization_config", "trust_remote_code",
                        "use_cache", "max_position_embeddings", "gguf_file"},
    "generate": {"max_new_tokens", "num_beams", "temperature", "repetition_penalty"},
    "init_inference": {"enable_cuda_graph", "replace_with_kernel_inject", "tensor_parallel", "tp", "moe"},
}  # fmt: skip


@pytest.mark.parametrize("name", INSTALLED)
def test_what_is_read_from_sources_is_what_the_library_says_itself(name: str) -> None:
    assert table(name).arguments == INSTALLED[name]


@pytest.mark.parametrize("name", KNOWN)
def test_what_everybody_uses_is_known(name: str) -> None:
    assert KNOWN[name] - table(name).arguments == set()
    assert table(name).version


def marked() -> dict[str, LibraryArguments]:
    """Each field whose content goes to a library."""
    found = ((".".join(path), marker(field, LibraryArguments)) for path, field in every_field(ModelSpec))
    return {path: mark for path, mark in found if mark}


def test_every_library_setting_of_ours_is_one_of_the_librarys() -> None:
    models = {model for _, field in every_field(ModelSpec) for model in models_in(field.annotation) if model.library}
    ours = {"max_waiting_requests", "num_replicas", "request_timeout_s"}  # the replica's own; Ray's by another type
    for model in models:
        unknown = set(fields(model)) - table(model.library).arguments - ours
        assert (
            unknown - ({"presence_penalty", "frequency_penalty", "seed"} if model.library == "generate" else set())
            == set()
        )
    assert deployment.RayActorOptions in models


@pytest.mark.parametrize("rename", RENAMES, ids=lambda rename: rename.old)
def test_a_rename_leads_from_what_is_gone_to_what_there_is(rename) -> None:
    parent = ".".join(rename.parent)
    if mark := marked().get(parent):
        known = table(mark.table).arguments
        deprecated = {"torch_dtype", "mp_size", "replace_method", "ep_size", "moe_experts"}  # still there, for a while
        assert rename.old not in known - deprecated
        for path in rename.new:
            assert path[: len(rename.parent)] != rename.parent or path[len(rename.parent)] in known
    for path in rename.new:
        names = [".".join(path[:length]) for length in range(len(path), 0, -1)]
        assert any(name in {".".join(each) for each, _ in every_field(ModelSpec)} for name in names)


def test_a_rename_that_needs_another_comes_after_it() -> None:
    places = {(*rename.parent, rename.old): index for index, rename in enumerate(RENAMES)}
    for index, rename in enumerate(RENAMES):
        for length in range(1, len(rename.parent) + 1):
            assert places.get(rename.parent[:length], -1) < index
