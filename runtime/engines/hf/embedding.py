"""Embedding models through sentence-transformers, which knows their pooling and normalisation from their folder."""

from collections.abc import Sequence

import torch
from sentence_transformers import SentenceTransformer

from runtime.engines.contract import Batching, Engine, Limits
from runtime.engines.embedding import EmbeddingEngine, Encoder, Vector
from runtime.engines.hf.loading import LIBRARY_ERRORS, Source, use_threads
from runtime.engines.hf.rows import release_memory
from runtime.engines.hf.runner import memory
from runtime.engines.hf.tokenizer import load_whole_tokenizer
from runtime.errors import EngineError

_STEP_TOKENS = 16384


def load_embedder(source: Source, device: str, batching: Batching) -> Engine:
    """The model on one device. Raises ConfigError."""
    use_threads(source.arguments)
    config = source.config
    try:
        tokenizer = load_whole_tokenizer(source.folder, **source.code)
        model = SentenceTransformer(
            str(source.folder),
            device=device,
            local_files_only=True,
            trust_remote_code=bool(source.code.get("trust_remote_code")),
            model_kwargs={
                "dtype": config.dtype,
                "attn_implementation": config.attn_implementation,
                **{"use_safetensors": True, **config.from_pretrained_kwargs},
            },
        )
    except (EngineError, *LIBRARY_ERRORS) as error:
        raise source.wrong(f"sentence-transformers cannot load the model: {error}") from error
    if not model.max_seq_length:
        raise source.wrong("its config does not say how long a text may be")
    limits = Limits(model.max_seq_length, len(model.tokenizer), embeds=True)
    return EmbeddingEngine(HfEncoder(model), tokenizer, limits, batching)


class HfEncoder(Encoder):
    """Rows of token ids in, rows of numbers out."""

    step_tokens = _STEP_TOKENS

    def __init__(self, model: SentenceTransformer) -> None:
        self._model = model
        self._pad = int(model.tokenizer.pad_token_id or 0)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def encode(self, prompts: Sequence[Sequence[int]]) -> list[Vector]:
        longest = max(map(len, prompts))
        ids = [[*prompt, *[self._pad] * (longest - len(prompt))] for prompt in prompts]
        mask = [[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
        with memory():
            features = {"input_ids": self._tensor(ids), "attention_mask": self._tensor(mask)}
            vectors: list[Vector] = self._model(features)["sentence_embedding"].float().tolist()
        return vectors

    def _tensor(self, rows: list[list[int]]) -> torch.Tensor:
        return torch.tensor(rows, device=self._model.device)

    def close(self) -> None:
        del self._model
        release_memory()
