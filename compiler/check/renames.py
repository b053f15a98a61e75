"""Fields that have moved or gone, in one table: old files compile, with a warning that says what to write.

Sources: Ray Serve 2.60 `AutoscalingConfig` and `DeploymentSchema`; transformers 5.23 `PreTrainedModel.from_pretrained`;
vLLM 0.33 `EngineArgs`; DeepSpeed 0.19 `DeepSpeedInferenceConfig`; llm-inference, which called `model_config`
`model_conf` for a while.
"""

from collections.abc import Callable
from collections.abc import Mapping as Dict
from dataclasses import dataclass, field, replace

from compiler.diagnostics import Diagnostic, Fix, Label
from compiler.source.tree import Entry, Mapping, Node, Scalar, ScalarValue, find, inline, keys

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rename:
    """`old` in the mapping at `parent` stands at the paths `new` today; several if its meaning was split.

    `values` translates values; one that it does not list has no meaning any more. Without `new` the field is gone,
    and `gone` says why.
    """

    parent: Path
    old: str
    new: tuple[Path, ...] = ()
    values: Dict[ScalarValue, ScalarValue] = field(default_factory=dict, hash=False)
    gone: str = ""


_DEPLOYMENT: Path = ("deployment_config",)
_AUTOSCALING: Path = (*_DEPLOYMENT, "autoscaling_config")
_INITIALIZER: Path = ("model_config", "initialization", "initializer")
_TRANSFORMERS: Path = (*_INITIALIZER, "from_pretrained_kwargs")
_VLLM: Path = (*_INITIALIZER, "engine_kwargs")
_DEEPSPEED: Path = (*_INITIALIZER, "ds_inference_kwargs")


def _within(parent: Path, old: str, *new: str) -> Rename:
    return Rename(parent, old, tuple((*parent, *name.split(".")) for name in new))


def _gone_from(parent: Path, old: str, why: str) -> Rename:
    return Rename(parent, old, gone=why)


_RUNNERS: Dict[ScalarValue, ScalarValue] = {
    "generate": "generate",
    **dict.fromkeys(("classify", "embed", "embedding", "reward", "score"), "pooling"),
}
_ATTENTION: Path = (*_INITIALIZER, "attn_implementation")

RENAMES = (
    _within((), "model_conf", "model_config"),
    _within(_DEPLOYMENT, "max_concurrent_queries", "max_ongoing_requests"),
    _within(_AUTOSCALING, "target_num_ongoing_requests_per_replica", "target_ongoing_requests"),
    _within(_AUTOSCALING, "smoothing_factor", "upscaling_factor", "downscaling_factor"),
    _within(_AUTOSCALING, "upscale_smoothing_factor", "upscaling_factor"),
    _within(_AUTOSCALING, "downscale_smoothing_factor", "downscaling_factor"),
    Rename(
        _INITIALIZER, "use_bettertransformer", (_ATTENTION,), {True: "sdpa"}, "transformers 5 has no BetterTransformer"
    ),
    Rename(_TRANSFORMERS, "torch_dtype", ((*_INITIALIZER, "dtype"),)),
    Rename(_TRANSFORMERS, "use_flash_attention_2", (_ATTENTION,), {True: "flash_attention_2"}, "it is off anyway"),
    _within(_TRANSFORMERS, "load_in_8bit", "quantization_config.load_in_8bit"),
    _within(_TRANSFORMERS, "load_in_4bit", "quantization_config.load_in_4bit"),
    _within(_TRANSFORMERS, "use_auth_token", "token"),
    _gone_from(_TRANSFORMERS, "low_cpu_mem_usage", "transformers 5 always loads so"),
    _gone_from(_TRANSFORMERS, "_fast_init", "transformers 5 ignores it"),
    _gone_from(_TRANSFORMERS, "mirror", "transformers 5 ignores it; `s3_mirror_config` is a mirror"),
    _gone_from(_TRANSFORMERS, "offload_state_dict", "transformers 5 ignores it"),
    _gone_from(_TRANSFORMERS, "resume_download", "downloads always resume"),
    Rename(_VLLM, "disable_log_requests", ((*_VLLM, "enable_log_requests"),), {False: True}, "that is the default"),
    Rename(_VLLM, "disable_mm_preprocessor_cache", ((*_VLLM, "mm_processor_cache_gb"),), {True: 0}, "it is on anyway"),
    Rename(_VLLM, "task", ((*_VLLM, "runner"),), _RUNNERS, "vLLM finds it out from the model"),
    _within(_VLLM, "cuda_graph_sizes", "cudagraph_capture_sizes"),
    _within(_VLLM, "guided_decoding_backend", "structured_outputs_config.backend"),
    _within(_VLLM, "num_speculative_tokens", "speculative_config.num_speculative_tokens"),
    _within(_VLLM, "override_pooler_config", "pooler_config"),
    _within(_VLLM, "rope_scaling", "hf_overrides.rope_scaling"),
    _within(_VLLM, "rope_theta", "hf_overrides.rope_theta"),
    _within(_VLLM, "speculative_model", "speculative_config.model"),
    _gone_from(_VLLM, "calculate_kv_scales", "vLLM has dropped it"),
    _gone_from(_VLLM, "device", "vLLM finds the device itself"),
    _gone_from(_VLLM, "disable_async_output_proc", "vLLM has one way of processing output"),
    _gone_from(_VLLM, "enable_prompt_adapter", "vLLM has dropped prompt adapters"),
    _gone_from(_VLLM, "enable_reasoning", "`reasoning_parser` alone turns it on"),
    _gone_from(_VLLM, "engine_use_ray", "llm-serve runs the engine"),
    _gone_from(_VLLM, "long_lora_scaling_factors", "vLLM has dropped it"),
    _gone_from(_VLLM, "lora_extra_vocab_size", "vLLM has dropped it"),
    _gone_from(_VLLM, "max_context_len_to_capture", "`cudagraph_capture_sizes` says what is captured"),
    _gone_from(_VLLM, "max_seq_len_to_capture", "`cudagraph_capture_sizes` says what is captured"),
    _gone_from(_VLLM, "multi_step_stream_outputs", "vLLM schedules each step"),
    _gone_from(_VLLM, "num_lookahead_slots", "`speculative_config` says it"),
    _gone_from(_VLLM, "num_scheduler_steps", "vLLM schedules each step"),
    _gone_from(_VLLM, "preemption_mode", "vLLM always recomputes"),
    _gone_from(_VLLM, "qlora_adapter_name_or_path", "vLLM has dropped it"),
    _gone_from(_VLLM, "quantization_param_path", "the checkpoint holds the scales"),
    _gone_from(_VLLM, "scheduler_delay_factor", "vLLM has dropped it"),
    _gone_from(_VLLM, "swap_space", "vLLM recomputes instead of swapping"),
    _gone_from(_VLLM, "tokenizer_pool_size", "vLLM has dropped it"),
    _gone_from(_VLLM, "use_v2_block_manager", "vLLM has no other"),
    _gone_from(_VLLM, "worker_use_ray", "llm-serve places the workers"),
    _within(_DEEPSPEED, "ep_size", "moe.ep_size"),
    _within(_DEEPSPEED, "moe_experts", "moe.moe_experts"),
    _gone_from(_DEEPSPEED, "mp_size", "`scaling_config.num_workers` says it"),
    _gone_from(_DEEPSPEED, "replace_method", "DeepSpeed needs it no longer"),
)
"""Outer names come first: a later row finds its parent under the parent's new name."""

_OLD_NAMES = frozenset(rename.old for rename in RENAMES)


def modernize(tree: Mapping) -> tuple[Mapping, list[Diagnostic]]:
    """One layer with today's names, with a warning for each old one and an error where both are set."""
    found: list[Diagnostic] = []
    if _OLD_NAMES.isdisjoint(keys(tree)):
        return tree, found
    for rename in RENAMES:
        parent, _, reached = find(tree, rename.parent)
        if reached == rename.parent and isinstance(parent, Mapping) and rename.old in parent.entries:
            tree = _apply(rename, tree, parent.entries[rename.old], found)
    return tree, found


def _apply(rename: Rename, tree: Mapping, old: Entry, found: list[Diagnostic]) -> Mapping:
    taken = next((path for path in rename.new if find(tree, path)[2] == path), None)
    if taken:
        there = Label(find(tree, taken)[1], "today's name")
        message = f"`{rename.old}` and `{taken[-1]}` are the same field"
        found.append(Diagnostic("E305", message, Label(old.key_span, "old name"), (there,), "remove the old one"))
        return _without(tree, (*rename.parent, rename.old))
    value = _today(rename, old.value)
    if value is None:
        found.append(_gone(rename, old))
        return _without(tree, (*rename.parent, rename.old))
    names = " and ".join(f"`{_place(rename, path)}`" for path in rename.new)
    fix = _fix(rename, value)
    message = f"`{rename.old}` is called {names} now"
    found.append(Diagnostic("W301", message, Label(old.key_span), help=_advice(rename, value), fix=fix))
    if all(path[:-1] == rename.parent for path in rename.new):
        return _replaced(tree, rename, Entry(rename.old, old.key_span, value))
    tree = _without(tree, (*rename.parent, rename.old))
    for path in rename.new:
        tree = _with(tree, path, Entry(path[-1], old.key_span, value))
    return tree


def _today(rename: Rename, value: Node) -> Node | None:
    """The value that says the same today; None where there is nothing to say."""
    if not rename.new:
        return None
    if not rename.values:
        return value
    if not isinstance(value, Scalar) or value.tag is not None or value.value not in rename.values:
        return None
    return replace(value, value=rename.values[value.value])


def _fix(rename: Rename, value: Node) -> Fix | None:
    """A key that only gets another name keeps its value, whatever that is; only single values move elsewhere."""
    stays = len(rename.new) == 1 and rename.new[0][:-1] == rename.parent
    if isinstance(value, Scalar) and value.tag is None:
        return Fix((*rename.parent, rename.old), tuple((path, value.value) for path in rename.new))
    return Fix((*rename.parent, rename.old), ((rename.new[0], None),)) if stays and not rename.values else None


def _gone(rename: Rename, old: Entry) -> Diagnostic:
    fix = Fix((*rename.parent, rename.old))
    message = f"`{rename.old}` has no effect any more: {rename.gone}"
    return Diagnostic("W302", message, Label(old.key_span), help="remove it", fix=fix)


def _place(rename: Rename, path: Path) -> str:
    """The new name as seen from the old one, and the whole path where it has moved up."""
    own = path[: len(rename.parent)] == rename.parent
    return ".".join(path[len(rename.parent) :] if own else path)


def _advice(rename: Rename, value: Node) -> str:
    text = f" {inline(value.value)}" if isinstance(value, Scalar) else ""
    return "write " + " and ".join(f"`{_place(rename, path)}:{text}`" for path in rename.new)


def _replaced(tree: Mapping, rename: Rename, old: Entry) -> Mapping:
    """`tree` with the new entries where the old one stood."""

    def renamed(parent: Mapping) -> Mapping:
        entries: dict[str, Entry] = {}
        for key, entry in parent.entries.items():
            new = {path[-1]: old._replace(key=path[-1]) for path in rename.new}
            entries |= new if key == rename.old else {key: entry}
        return parent.with_entries(entries)

    return _at(tree, rename.parent, renamed)


def _without(tree: Mapping, path: Path) -> Mapping:
    def shorter(parent: Mapping) -> Mapping:
        return parent.with_entries({key: entry for key, entry in parent.entries.items() if key != path[-1]})

    return _at(tree, path[:-1], shorter)


def _with(tree: Mapping, path: Path, entry: Entry) -> Mapping:
    def longer(parent: Mapping) -> Mapping:
        return parent.with_entries({**parent.entries, path[-1]: entry})

    return _at(tree, path[:-1], longer, entry)


def _at(tree: Mapping, path: Path, change: Callable[[Mapping], Mapping], new: Entry | None = None) -> Mapping:
    """`tree` with the mapping at `path` changed; made where there is none, for a `new` entry."""
    if not path:
        return change(tree)
    entry = tree.entries.get(path[0])
    if entry is None or not isinstance(entry.value, Mapping):
        assert new is not None
        entry = Entry(path[0], new.key_span, Mapping({}, new.value.span))
    assert isinstance(entry.value, Mapping)
    below = _at(entry.value, path[1:], change, new)
    return tree.with_entries({**tree.entries, path[0]: entry._replace(value=below)})
