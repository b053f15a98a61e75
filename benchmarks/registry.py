"""A registry of any size, made from a seed: three base levels, 63 leaves, five of them overridden in each model."""

import json
from pathlib import Path
from random import Random
from typing import Any

Tree = dict[str, Any]

FAMILIES = 20
ENGINES = ("single-device", "vllm", "deepspeed")
CLUSTER_SIZE = 100
"""Models of one cluster: nobody serves thousands from one Ray cluster."""

DEFAULTS: Tree = {
    "deployment_config": {
        "autoscaling_config": {
            "min_replicas": 1,
            "initial_replicas": 1,
            "max_replicas": 4,
            "target_ongoing_requests": 64.0,
            "look_back_period_s": 30.0,
            "upscaling_factor": 1.0,
            "downscaling_factor": 1.0,
            "upscale_delay_s": 90.0,
            "downscale_delay_s": 300.0,
            "aggregation_function": "mean",
        },
        "ray_actor_options": {"num_cpus": 1.0, "memory": 1e9},
        "max_ongoing_requests": 256,
        "max_waiting_requests": 64,
        "max_queued_requests": 128,
        "health_check_period_s": 10.0,
        "health_check_timeout_s": 30.0,
        "graceful_shutdown_wait_loop_s": 2.0,
        "graceful_shutdown_timeout_s": 60.0,
    },
    "model_config": {
        "model_task": "text-generation",
        "model_url": "https://example.com/models",
        "model_description": "a model of the benchmark",
        "max_input_words": 4096,
        "warmup": True,
        "initialization": {
            "runtime_env": {
                "pip": ["einops==0.8.0", "sentencepiece==0.2.0"],
                "env_vars": {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "4", "TOKENIZERS_PARALLELISM": "false"},
            },
            "s3_mirror_config": {
                "endpoint_url": "https://s3.example.com",
                "s3_sync_args": ["--no-sign-request", "--only-show-errors"],
            },
            "revision": "main",
        },
        "generation": {
            "max_batch_size": 16,
            "batch_wait_timeout_s": 0.0,
            "generate_kwargs": {
                "do_sample": True,
                "max_new_tokens": 512,
                "min_new_tokens": 0,
                "temperature": 0.7,
                "top_p": 0.9,
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "seed": 1,
            },
            "prompt_format": "### Instruction:\n{instruction}\n### Response:\n",
            "stopping_sequences": ["### Response:", "### End", 50278],
        },
    },
    "scaling_config": {
        "num_workers": 1,
        "num_gpus_per_worker": 1.0,
        "num_cpus_per_worker": 4.0,
        "resources_per_worker": {"instance_type_g5": 0.01},
        "placement_strategy": "PACK",
        "pg_timeout_s": 600.0,
    },
}

INITIALIZERS: dict[str, Tree] = {
    "single-device": {
        "type": "SingleDevice",
        "dtype": "bfloat16",
        "from_pretrained_kwargs": {"use_safetensors": True, "use_cache": True, "local_files_only": True},
        "torch_compile": {"backend": "inductor", "mode": "max-autotune", "fullgraph": False, "dynamic": False},
    },
    "vllm": {
        "type": "vLLM",
        "engine_kwargs": {
            "max_model_len": 8192,
            "gpu_memory_utilization": 0.9,
            "enable_prefix_caching": True,
            "enable_chunked_prefill": True,
            "max_num_batched_tokens": 8192,
            "enforce_eager": False,
            "seed": 0,
        },
    },
    "deepspeed": {
        "type": "DeepSpeed",
        "dtype": "float16",
        "use_kernel": True,
        "max_tokens": 4096,
        "from_pretrained_kwargs": {"use_safetensors": True, "use_cache": True, "local_files_only": True},
    },
}


def layers(models: int, seed: int = 1) -> dict[str, Tree]:
    """Every file of the registry by its path, without suffix; clusters too."""
    random = Random(seed)  # noqa: S311 (nothing secret)
    files: dict[str, Tree] = {"base/defaults": DEFAULTS}
    for engine in ENGINES:
        files[f"base/engines/{engine}"] = {"model_config": {"initialization": {"initializer": INITIALIZERS[engine]}}}
    for family in range(FAMILIES):
        # five digits, of which a model's own values have four: none says by chance what it inherits
        kwargs = {"temperature": 0.10005 + family / 100, "top_p": 0.50005 + family / 100}
        kwargs |= {"max_new_tokens": 256 + family}
        files[f"base/families/family-{family}"] = {
            "extends": f"engines/{ENGINES[family % len(ENGINES)]}",
            "model_config": {"generation": {"generate_kwargs": kwargs, "max_batch_size": 8 + family}},
        }
    for number in range(models):
        files[f"registry/acme--model-{number:05}"] = _model(number, random)
    for first in range(0, models, CLUSTER_SIZE):
        files[f"registry/clusters/cluster-{first // CLUSTER_SIZE:03}"] = {
            "models": [f"acme--model-{first // CLUSTER_SIZE:03}*"]
        }
    files["registry/clusters/default"] = {"models": ["acme--model-00000"]}
    return files


def _model(number: int, random: Random) -> Tree:
    """A model's file: who it is and where its weights are, and three settings of its own."""
    model_id = f"acme/model-{number:05}"
    mirror = f"s3://mirror/models--acme--model-{number:05}/main-safetensors/"
    settings = random.sample(
        [
            ("model_config", "generation", "generate_kwargs", "temperature"),
            ("model_config", "generation", "generate_kwargs", "top_p"),
            ("model_config", "generation", "generate_kwargs", "repetition_penalty"),
            ("deployment_config", "autoscaling_config", "upscale_delay_s"),
            ("deployment_config", "health_check_timeout_s"),
            ("scaling_config", "num_cpus_per_worker"),
        ],
        3,
    )
    tree: Tree = {
        "extends": f"families/family-{random.randrange(FAMILIES)}",
        "model_config": {"model_id": model_id, "initialization": {"s3_mirror_config": {"bucket_uri": mirror}}},
    }
    for path in settings:
        at = tree
        for step in path[:-1]:
            at = at.setdefault(step, {})
        at[path[-1]] = round(random.uniform(0.2, 0.95), 4) + (path[0] != "model_config") * 10
    return tree


def write(root: Path, models: int) -> None:
    """The registry as files under `root`."""
    for path, tree in layers(models).items():
        file = root / f"{path}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join([*_lines(tree), ""]))


def _lines(tree: Tree, indent: str = "") -> list[str]:
    """Block style, as people write it; values in JSON, which is YAML."""
    lines: list[str] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{key}: {json.dumps(value)}")
    return lines
