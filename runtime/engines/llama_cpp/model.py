"""llama.cpp's C objects, owned: a model with its vocabulary, a context, a batch and samplers."""

import ctypes
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from runtime.engines.contract import Sampling, ScoredToken, Tokenizer
from runtime.engines.llama_cpp import LlamaKwargs
from runtime.errors import EngineDeadError, EngineError

logger = logging.getLogger(__name__)

_GGML_LOG_WARN, _GGML_LOG_ERROR = 3, 4
_PIECE_BYTES = 256
"""Longest piece of a token; real vocabularies stay below 130."""


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    if level in (_GGML_LOG_WARN, _GGML_LOG_ERROR):
        logger.warning("llama.cpp: %s", text.decode("utf-8", "replace").rstrip())


class Model:
    """The weights and the vocabulary of a GGUF file. Raises EngineError when llama.cpp cannot load it."""

    def __init__(self, path: Path, options: LlamaKwargs) -> None:
        llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        layers = options.n_gpu_layers or 0
        parameters.n_gpu_layers = 2**31 - 1 if layers < 0 else layers
        parameters.main_gpu = options.main_gpu
        parameters.use_mmap = options.use_mmap
        parameters.use_mlock = options.use_mlock
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.pointer:
            raise EngineError(f"llama.cpp cannot load {path.name}: not a GGUF file that it knows, or a damaged one")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self.pointer)
        self.vocabulary_size: int = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        self.trained_context: int = llama_cpp.llama_model_n_ctx_train(self.pointer)
        self.embedding_size: int = llama_cpp.llama_model_n_embd(self.pointer)
        self.end_tokens = frozenset(token for token in range(self.vocabulary_size) if self._ends(token))

    @property
    def vocabulary(self) -> object:
        """The C vocabulary. Raises EngineDeadError once the model is closed: its memory is gone."""
        if not self.pointer:
            raise EngineDeadError("the engine has stopped")
        return self._vocabulary

    def _ends(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token))

    def close(self) -> None:
        """Free the weights."""
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None


class GgufTokenizer(Tokenizer):
    """The tokenizer inside a GGUF file."""

    marks = False
    """Whether prompts get all that the model wants around them; else only what it wants in front."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pieces: dict[int, bytes] = {}
        self.chat_template, self.tool_template = map(self._template, (None, b"tool_use"))
        self._bos = llama_cpp.llama_vocab_bos(self._model.vocabulary)
        self._adds_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._model.vocabulary))
        eos = llama_cpp.llama_vocab_eos(self._model.vocabulary)
        named = (("bos_token", self._bos), ("eos_token", eos))
        self.special_tokens = {
            name: self.label(token).decode("utf-8", "replace") for name, token in named if token >= 0
        }

    def _template(self, name: bytes | None) -> str | None:
        text = llama_cpp.llama_model_chat_template(self._model.pointer, name)
        return text.decode("utf-8", "replace") if text else None

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        data = text.encode()
        room = len(data) + 8  # a token has at least a byte, but for the few that are added
        buffer = (llama_cpp.llama_token * room)()
        marks = self.marks and start
        count = llama_cpp.llama_tokenize(self._model.vocabulary, data, len(data), buffer, room, marks, True)
        if count < 0:
            raise EngineError("llama.cpp cannot tokenize the prompt")
        tokens = buffer[:count]
        if start and self._adds_bos and not self.marks and (not tokens or tokens[0] != self._bos):
            tokens.insert(0, self._bos)
        return list(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        given = (llama_cpp.llama_token * len(tokens))(*tokens)
        room = 0
        while True:  # it says once how much room it needs
            buffer = ctypes.create_string_buffer(room + 1)
            length = llama_cpp.llama_detokenize(self._model.vocabulary, given, len(given), buffer, room, False, True)
            if length >= 0:
                return buffer.raw[:length].decode("utf-8", "replace")
            room = -length

    def piece(self, token: int) -> bytes:
        if token not in self._pieces:
            self._pieces[token] = self._render(token, special=False)
        return self._pieces[token]

    def label(self, token: int) -> bytes:
        return self._render(token, special=True)

    def _render(self, token: int, *, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        length = llama_cpp.llama_token_to_piece(self._model.vocabulary, token, buffer, _PIECE_BYTES, 0, special)
        if length < 0:
            raise EngineError(f"token {token} is longer than {_PIECE_BYTES} bytes")
        return buffer.raw[:length]


class Sampler:
    """Chooses the tokens of one sequence. Order as in transformers: biases, penalties, temperature, then the cuts."""

    def __init__(self, model: Model, sampling: Sampling, prompt: Iterable[int], window: int) -> None:
        self._model = model
        self._sampling = sampling
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if sampling.logit_bias:
            biases = (llama_cpp.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias)
            size = model.vocabulary_size
            self._add(llama_cpp.llama_sampler_init_logit_bias(size, len(biases), biases))
        if sampling.repetition_penalty != 1.0:
            repetition = self._add_penalties(window, sampling.repetition_penalty, 0.0, 0.0)
            for token in prompt:  # it counts what the prompt holds, the other penalties only the answer
                llama_cpp.llama_sampler_accept(repetition, token)
        if sampling.presence_penalty or sampling.frequency_penalty:
            self._add_penalties(window, 1.0, sampling.frequency_penalty, sampling.presence_penalty)
        if sampling.temperature == 0:
            self._add(llama_cpp.llama_sampler_init_greedy())
            return
        self._add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        if sampling.top_k:
            self._add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            self._add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p:
            self._add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
        random = llama_cpp.LLAMA_DEFAULT_SEED  # the one number that is no seed to llama.cpp
        seed = random if sampling.seed is None else sampling.seed % random
        self._add(llama_cpp.llama_sampler_init_dist(seed))

    def _add_penalties(self, window: int, repetition: float, frequency: float, presence: float) -> object:
        size = self._model.vocabulary_size
        sampler = llama_cpp.llama_sampler_init_penalties(size, window, repetition, frequency, presence)
        self._add(sampler)
        return sampler

    def _add(self, sampler: object) -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, context: "Context", row: int, generated: int, allowed: NDArray[np.bool_] | None = None) -> int:
        """The next token from row `row` of the last decode; `generated` tokens came before it.

        `allowed`: whether each token may be it, [vocabulary]; None: all.
        """
        count = self._sampling.logprobs
        logprobs = None if count is None else context.logprobs(row)
        if allowed is not None:
            np.putmask(context.logits(row), ~allowed, -np.inf)
        if generated < self._sampling.min_new_tokens:
            context.logits(row)[list(self._model.end_tokens)] = -np.inf
        token = int(llama_cpp.llama_sampler_sample(self._chain, context.pointer, row))
        if count is None or logprobs is None:
            return token
        return scored(logprobs, token, count)

    def close(self) -> None:
        """Free the sampler."""
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None


def scored(logprobs: NDArray[np.float32], token: int, count: int) -> ScoredToken:
    """A token with those most likely in its place."""
    best = np.argpartition(-logprobs, count)[:count]
    ranked = best[np.argsort(-logprobs[best], kind="stable")]
    return ScoredToken(token, float(logprobs[token]), tuple((int(each), float(logprobs[each])) for each in ranked))


class Context:
    """The key-value cache of `slots` sequences, and the batch that one decode processes."""

    def __init__(self, model: Model, options: LlamaKwargs, threads: int, slots: int) -> None:
        wanted = options.n_ctx or model.trained_context
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = wanted * slots
        parameters.n_seq_max = slots
        parameters.n_batch = max(options.n_batch, slots)
        parameters.n_ubatch = min(options.n_ubatch, parameters.n_batch)
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.offload_kqv = options.offload_kqv
        if options.flash_attn is not None:
            parameters.flash_attn_type = int(options.flash_attn)
        self.pointer = llama_cpp.llama_init_from_model(model.pointer, parameters)
        if not self.pointer:
            raise EngineError(f"llama.cpp cannot make a context of {slots} x {wanted} tokens: not enough memory?")
        self.slots = slots
        self._vocabulary_size = model.vocabulary_size
        self.batch_size: int = parameters.n_batch
        self.length: int = min(wanted, llama_cpp.llama_n_ctx_seq(self.pointer))
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        self._batch = llama_cpp.llama_batch_init(self.batch_size, 0, 1)

    def clear(self) -> None:
        """An empty batch."""
        self._batch.n_tokens = 0

    def add(self, token: int, position: int, slot: int, *, logits: bool) -> int:
        """Put one token of a sequence into the batch; its row."""
        row = int(self._batch.n_tokens)
        self._batch.token[row] = token
        self._batch.pos[row] = position
        self._batch.n_seq_id[row] = 1
        self._batch.seq_id[row][0] = slot
        self._batch.logits[row] = logits
        self._batch.n_tokens = row + 1
        return row

    def decode(self) -> None:
        """Run the model over the batch. Raises EngineError."""
        code = llama_cpp.llama_decode(self.pointer, self._batch)
        if code:
            raise EngineError(f"llama.cpp failed to decode (code {code})")

    def logits(self, row: int) -> NDArray[np.float32]:
        """Of every token after row `row` of the last decode, [vocabulary]: llama.cpp's own, to read and to change."""
        pointer = llama_cpp.llama_get_logits_ith(self.pointer, row)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (self._vocabulary_size,))
        return logits

    def logprobs(self, row: int) -> NDArray[np.float32]:
        """Of every token after row `row` of the last decode, [vocabulary]."""
        logits = self.logits(row)
        logits = logits - logits.max()
        logprobs: NDArray[np.float32] = logits - np.log(np.exp(logits).sum())
        return logprobs

    def move(self, slot: int, to: int) -> None:
        """Give the cache of a slot to another."""
        self.forget(to)
        llama_cpp.llama_memory_seq_cp(self._memory, slot, to, -1, -1)
        self.forget(slot)

    def forget(self, slot: int, keep: int = 0) -> bool:
        """Empty a slot's cache but for its first tokens; False where the model cannot forget a part."""
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, slot, keep, -1))

    def close(self) -> None:
        """Free the cache and the batch."""
        if self.pointer:
            llama_cpp.llama_batch_free(self._batch)
            llama_cpp.llama_free(self.pointer)
            self.pointer = None
