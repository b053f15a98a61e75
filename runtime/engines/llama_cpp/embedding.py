"""Embedding models from GGUF files. llama.cpp pools; vectors are brought to length 1, as its own server does."""

from collections.abc import Sequence

import llama_cpp
import numpy as np

from runtime.engines.embedding import Encoder, Vector
from runtime.engines.llama_cpp import LlamaKwargs
from runtime.engines.llama_cpp.model import GgufTokenizer, Model
from runtime.errors import EngineError

_POOLING = {
    None: llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED,
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
}


class WholeGgufTokenizer(GgufTokenizer):
    """Texts with all marks around them that the model was trained with."""

    marks = True


class LlamaEncoder(Encoder):
    """Owns the model and a context that holds one call's prompts. Raises EngineError where there can be none."""

    def __init__(self, model: Model, options: LlamaKwargs, threads: int, slots: int) -> None:
        self._model = model
        self.length = min(options.n_ctx or model.trained_context, model.trained_context)
        self.step_tokens = max(self.length, options.n_batch)
        parameters = llama_cpp.llama_context_default_params()
        parameters.embeddings = True
        parameters.pooling_type = _POOLING[options.pooling_type]
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = self.step_tokens  # a prompt is read in one piece
        parameters.n_seq_max, parameters.kv_unified = slots, True
        parameters.n_threads = parameters.n_threads_batch = threads
        self._slots = slots
        self._context = llama_cpp.llama_init_from_model(model.pointer, parameters)
        if not self._context:
            raise EngineError(f"llama.cpp cannot make a context of {self.step_tokens} tokens: not enough memory?")
        self._batch = llama_cpp.llama_batch_init(self.step_tokens, 0, 1)
        if llama_cpp.llama_pooling_type(self._context) not in _POOLING.values():
            self.close()
            raise EngineError("the file does not say how vectors are pooled; set `pooling_type`: mean, cls or last")

    def encode(self, prompts: Sequence[Sequence[int]]) -> list[Vector]:
        vectors = []
        for begin in range(0, len(prompts), self._slots):
            vectors += self._encode(prompts[begin : begin + self._slots])
        return vectors

    def _encode(self, prompts: Sequence[Sequence[int]]) -> list[Vector]:
        row = 0
        for slot, prompt in enumerate(prompts):
            for position, token in enumerate(prompt):
                self._batch.token[row], self._batch.pos[row] = token, position
                self._batch.n_seq_id[row], self._batch.seq_id[row][0] = 1, slot
                self._batch.logits[row] = True
                row += 1
        self._batch.n_tokens = row
        if memory := llama_cpp.llama_get_memory(self._context):
            llama_cpp.llama_memory_clear(memory, True)
        if code := llama_cpp.llama_decode(self._context, self._batch):
            raise EngineError(f"llama.cpp failed to read the prompts (code {code})")
        return [self._vector(slot) for slot in range(len(prompts))]

    def _vector(self, slot: int) -> Vector:
        pointer = llama_cpp.llama_get_embeddings_seq(self._context, slot)
        vector = np.ctypeslib.as_array(pointer, (self._model.embedding_size,)).astype(np.float64)
        return [float(each) for each in vector / max(float(np.linalg.norm(vector)), 1e-12)]

    def close(self) -> None:
        if self._context:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self._context)
            self._context = None
            self._model.close()
