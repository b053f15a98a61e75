"""The warm-up of a real engine; that of a replica is in test_replica.py."""

import asyncio
import shutil
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from demo.model import fetch_safetensors
from runtime.engines.contract import Batching, load
from runtime.warmup import warm_up
from tests.runtime.support import arguments_for


async def test_the_cache_has_room_for_full_slots_afterwards(tmp_path: Path) -> None:
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=300, vocab_size=49152)).save_pretrained(tmp_path)
    for file in fetch_safetensors().glob("tokenizer*"):
        shutil.copyfile(file, tmp_path / file.name)
    engine = await asyncio.to_thread(load, arguments_for({"type": "SingleDevice"}), tmp_path, Batching(3))
    await warm_up(engine, 3, limit_s=100)
    assert engine._scheduler.runner._rows._cache.layers[0].keys.shape[:3] == (3, 2, 300)
    await engine.close()
