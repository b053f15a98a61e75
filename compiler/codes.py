"""What every code of a diagnostic means, with an example. `explain-code`, SARIF and docs/codes.md derive from it.

E1: reading, E2: layering, E3: schema, E4: clusters, E5: output, E6: locks; W2: lints, the other warnings as the errors.
"""

from typing import NamedTuple


class Code(NamedTuple):
    """`example`: a file, or a part of one, that leads to it; empty where no file does."""

    title: str
    meaning: str
    example: str = ""


CODES: dict[str, Code] = {
    "E101": Code(
        "file cannot be read",
        "The file system refuses the file, or it is a folder, a pipe or a device. Only regular files are read.",
    ),
    "E102": Code(
        "file is too large or nested too deep",
        "A config file has at most 256 KiB, 64 levels, 10,000 keys and values and 256 templates; real ones have a few"
        " KiB, seven levels and 150 values. The limits keep hostile files from costing time and memory.",
    ),
    "E103": Code(
        "file is not UTF-8 text",
        "Files are UTF-8 without a byte order mark or control characters. Line breaks that some readers of YAML know"
        " and others do not (U+2028, U+0085, a lone CR) are refused too: a comment could hide a setting behind one.",
    ),
    "E104": Code("YAML syntax", "The file is not YAML. After a syntax error the rest has no meaning.", "a: [1, 2\n"),
    "E105": Code(
        "duplicate key",
        "A mapping has the same key twice. Most readers of YAML take the last one in silence, and the wrong model is"
        " deployed.",
        "scaling_config:\n  num_workers: 1\n  num_workers: 2\n",
    ),
    "E106": Code(
        "YAML feature that config files may not use",
        "Anchors, aliases, merge keys, second documents, keys that are no strings, and tags other than our own are"
        " refused, and so is a tag of ours where it has no meaning. Layers share values; `extends` merges them.",
        "a: &shared {x: 1}\nb: *shared\n",
    ),
    "E107": Code(
        "number out of range",
        "Integers have at most 18 digits and floats are finite, so that every reader of the output sees the same"
        " number. A name that looks like a number belongs in quotes.",
        "port: 123456789012345678901\n",
    ),
    "E108": Code(
        "top level is not a mapping", "A file is a mapping such as `model_config:`; this one is empty or a list."
    ),
    "E109": Code(
        "file name",
        "A model's file name becomes its application's name and its route: letters, digits, `.`, `_`, `-`, and none of"
        " the gateway's own names. Files end in `.yaml` and lie in registry/ directly.",
    ),
    "E110": Code(
        "more findings than are shown",
        "A file with more than a hundred mistakes of one kind is probably no config file. The first hundred are shown.",
    ),
    "E201": Code(
        "layer does not exist",
        "`extends` names a file under registry/ or base/ by its path there, without `.yaml`.",
        "extends: enginse/vllm\n",
    ),
    "E202": Code("layers extend each other in a circle", "A layer cannot lie on itself, by whatever way round."),
    "E203": Code(
        "layers cannot be put in order",
        "One `extends` puts a layer under another, and a second one puts it over that. Lists are read from bottom to"
        " top, everywhere alike; the order is C3, as for Python's base classes.",
        "# base/a.yaml extends: [x, y], base/b.yaml extends: [y, x]\nextends: [a, b]\n",
    ),
    "E204": Code("layer name is ambiguous", "The name stands for a file of registry/ and for one of base/."),
    "E205": Code(
        "`extends` is not a layer name or a list of them",
        "`extends` takes one name, or a list in which each name stands once.",
        "extends: [engines/vllm, engines/vllm]\n",
    ),
    "E206": Code(
        "mapping and value cannot be merged",
        "One layer has a mapping where another has a value. Mappings merge key by key and values replace each other,"
        " so that nothing sensible can become of both. `null` goes with either.",
        "# below: device_map: auto\ndevice_map: {lm_head: 0}\n",
    ),
    "E207": Code(
        "final value is changed",
        "A lower layer says that its value is `!final`. A layer above may repeat it, and override it with `!force`.",
        "# below: max_batch_size: !final 4\nmax_batch_size: 8\n",
    ),
    "E208": Code(
        "tag has nothing to act on",
        "`!unset`, `!replace`, `!append`, `!prepend`, `!remove` and `!force` change what lower layers set. Where these"
        " set nothing of the kind, the tag is a mistake, or a left-over.",
        "generation:\n  prompt_format: !unset\n",
    ),
    "E209": Code(
        "template",
        "A `!template` is a Jinja2 expression without loops, calls or arithmetic, over `model_id` and the sections of"
        " the merged config. What it names must be set by some layer, and be a single value.",
        'model_url: !template "https://hub.example/{{ modelid }}"\n',
    ),
    "E210": Code("templates need each other in a circle", "The value of each of these templates depends on its own."),
    "E301": Code(
        "unknown key",
        "Ray Serve drops unknown keys without a word; here they are errors, in the layer where they stand. The hint"
        " says what was probably meant, or where the key belongs.",
        "scaling_config:\n  num_wrokers: 2\n",
    ),
    "E302": Code("missing key", "No layer sets a key that has no default, such as `model_config.model_id`."),
    "E303": Code(
        "wrong type",
        'Types are never coerced: `"8"` is not a number, and `yes` is a string.',
        'generation:\n  max_batch_size: "8"\n',
    ),
    "E304": Code(
        "value not allowed",
        "The value has the right type and is out of range, not one of the words allowed, or contradicts another one.",
        "generation:\n  generate_kwargs: {top_p: 1.5}\n",
    ),
    "E305": Code("old and new name of a field are both set", "A file sets a field under two of its names."),
    "E306": Code(
        "argument that its library does not have",
        "These arguments go to a library as they are, and this one is not among those of the version in use (the"
        " tables are made from the libraries' sources). A fork or a newer version may have it: then waive the finding.",
        "engine_kwargs: {max_modle_len: 4096}\n",
    ),
    "E307": Code(
        "prompt format",
        "A prompt format is empty, or a Python format string with `{instruction}` and no other placeholder. Literal"
        " braces are written twice.",
        'prompt_format: "Q: {question}"\n',
    ),
    "E308": Code(
        "environment variable is not a string",
        "Ray takes strings only, and an unquoted number or boolean would take its controller down.",
        "env_vars: {DEBUG: true}\n",
    ),
    "E309": Code(
        "secret in a config file",
        "The value looks like a token or a password, by its form or by its key. Put it into the environment of the"
        " nodes and write where it is: `HF_TOKEN: {from_env: HF_TOKEN}` under `runtime_env.env_vars`. If it was"
        " committed, it has to be revoked. Diagnostics never show it.",
        "env_vars: {HF_TOKEN: hf_...}\n",
    ),
    "E310": Code(
        "waiver",
        "`waive` maps the code of a lint to the reason why the finding is meant to be so.",
        "waive: {W203: }\n",
    ),
    "E401": Code(
        "cluster selects no model", "A name or glob under `models` fits no file of registry/.", "models: [acme-*]\n"
    ),
    "E402": Code(
        "two models of a cluster share an id", "Clients choose a model by its `model_id`: it is unique in a cluster."
    ),
    "E403": Code(
        "model cannot be placed",
        "An engine that computes in the replica itself has one worker, on the replica's own node.",
    ),
    "E404": Code(
        "hardware profile does not exist",
        "`hardware` of a cluster lists profiles of base/hardware/.",
        "hardware: [hardware/g7]\n",
    ),
    "E405": Code(
        "model of this cluster has no lock",
        "The cluster says `require_locks: true`, so that it loads only files whose digests somebody has reviewed.",
        "require_locks: true   # and no registry/locks/acme--tiny.yaml\n",
    ),
    "E501": Code(
        "file cannot be written",
        "The file system refuses a file under generated/ or .llm-serve/: the disk is full, or a folder is not ours.",
    ),
    "E502": Code(
        "generated file was edited",
        "A file under generated/ holds what no compile has written: somebody has edited it, or git has merged it. The"
        " edit would be lost, so nothing is written. Put it into base/ or registry/; `compile --force` overwrites it.",
    ),
    "E503": Code(
        "store is damaged",
        "Something in .llm-serve/store.db is lost or is not what its hash says, and cannot be built again: an old"
        " generation, whose sources are in git.",
    ),
    "E504": Code(
        "shared cache cannot be used",
        "`compile --cache` needs a secret in LLM_SERVE_CACHE_KEY, with which everything in the cache is signed, so that"
        " nobody who can only write to it decides what is deployed; and boto3 for one on S3.",
    ),
    "E601": Code(
        "lock does not fit its model",
        "registry/locks/ has a file for the model that pins another repository, revision or file than the model asks"
        " for. A lock is never loosened in silence: write it anew, and review what changes.",
        "revision: v1   # in the lock, and in the model: `revision: v2`\n",
    ),
    "W201": Code(
        "override changes nothing",
        "The value is what the layers below say already. Overrides that do nothing hide those that do something, and"
        " shield the model from a later change of the base. `lint --fix` removes them.",
        "# below: max_batch_size: 8\nmax_batch_size: 8\n",
    ),
    "W202": Code(
        "value names another model",
        "The weights, or the prompt, are those of another model than `model_id` says: a value that was inherited, or"
        " copied, and forgotten.",
        "extends: acme--base-7b\nmodel_config: {model_id: acme/chat-7b}   # bucket_uri still names base-7b\n",
    ),
    "W203": Code(
        "batch does not fill before Ray Serve scales out",
        "`max_batch_size` is above `target_ongoing_requests`, so that Ray Serve adds a replica before one batch is"
        " full; or above `max_ongoing_requests`, so that it never is.",
        "autoscaling_config: {target_ongoing_requests: 1}   # and generation: {max_batch_size: 22}\n",
    ),
    "W204": Code(
        "model that scales to zero starts with replicas",
        "`min_replicas: 0` stops idle replicas, and `initial_replicas` starts some at each deploy.",
        "autoscaling_config: {min_replicas: 0, initial_replicas: 1}\n",
    ),
    "W205": Code(
        "workers and GPUs do not fit the engine",
        "DeepSpeed and vLLM run one worker per GPU: keep `num_gpus_per_worker` at 1 and raise `num_workers`. DeviceMap"
        " and llamaCpp run in one worker with several GPUs, SingleDevice in one with one.",
        "scaling_config: {num_workers: 2}   # with DeviceMap\n",
    ),
    "W206": Code(
        "stopping sequence looks like a token id",
        "A number in quotes is matched as text; without quotes it is a token's id.",
        'stopping_sequences: ["50256"]\n',
    ),
    "W207": Code(
        "file name does not match the model's id",
        "A model's file is called like its `model_id` with `--` for `/`, and whatever distinguishes it behind a `-`.",
    ),
    "W208": Code(
        "remote code is trusted and not pinned",
        "With `trust_remote_code` the repository's Python code runs on the node. Without a lock, or a pinned commit and"
        " no mirror, that is whatever somebody pushes next, and a replica refuses it. A waiver does not change that.",
        "from_pretrained_kwargs: {trust_remote_code: true}\n",
    ),
    "W209": Code(
        "resources that no hardware profile offers",
        "The model asks for a custom resource that none of the cluster's hardware profiles brings, or for two that no"
        " node has together: Ray would wait for such a node for ever.",
        "resources_per_worker: {instance_type_g55: 0.01}\n",
    ),
    "W210": Code("waiver that waives nothing", "The finding is gone, or was never there: remove its waiver."),
    "W211": Code(
        "value is ignored",
        "llm-serve sets this argument itself, from another field, or the chosen engine has no use for it.",
        "engine_kwargs: {tensor_parallel_size: 2}\n",
    ),
    "W212": Code(
        "deadline that never comes",
        "`deployment_config.request_timeout_s` of a model ends a late answer with an error that clients understand. The"
        " cluster's `http.request_timeout_s` is not above it, so that Ray cuts the connection first, without a word.",
        "deployment_config: {request_timeout_s: 900}   # in a cluster with the default limit, 600 s\n",
    ),
    "W301": Code(
        "field has a new name",
        "Ray, the engine's library or llm-serve have renamed the field. The old name compiles; `lint --fix` writes the"
        " new one.",
        "autoscaling_config: {target_num_ongoing_requests_per_replica: 8}\n",
    ),
    "W302": Code("field has no effect any more", "The library has dropped it; `lint --fix` removes it."),
    "W401": Code("no cluster serves the model", "It compiles, and no cluster file selects it."),
    "W402": Code("cluster serves no model", "All that the cluster selects is disabled."),
    "W501": Code("file in generated/ that no compile wrote", "It stays where it is; `--check` fails until it is gone."),
    "W601": Code("lock of no model", "Its model is gone or has another name; `llm-serve lock` writes the new one."),
}
"""Every code."""

WAIVABLE = frozenset({"E306", *(code for code in CODES if code.startswith("W2") and code != "W210")})
"""What a file may say is meant to be so."""
