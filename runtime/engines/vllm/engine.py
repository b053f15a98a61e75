"""The vLLM engine: vLLM's asynchronous engine, which computes in processes of its own.

vLLM batches in flight by itself. The gate before it has `max_batch_size` places, so that their number can change
while it runs: vLLM fixes its own when it starts.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

from vllm import AsyncEngineArgs, CompletionOutput, PoolingParams, SamplingParams
from vllm.config.lora import LoRAConfig
from vllm.exceptions import VLLMError
from vllm.inputs import TokensPrompt
from vllm.logprobs import Logprob
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError
from vllm.v1.engine.exceptions import EngineGenerateError

from runtime.application import ModelArguments
from runtime.engines.contract import Batching, Constraint, EndToken, Engine, Limits, Sampling, ScoredToken, Tokenizer
from runtime.engines.grammar.matcher import Grammars, Matcher
from runtime.engines.hf.folder import end_tokens_of
from runtime.engines.hf.tokenizer import load_tokenizer, load_whole_tokenizer
from runtime.engines.vllm import VLLM
from runtime.engines.vllm.adapters import Adapters, adapters_of
from runtime.engines.vllm.guard import Guard
from runtime.errors import ConfigError, EngineDeadError, EngineError, GrammarError

_KWARGS = "model_config.initialization.initializer.engine_kwargs"
_SEQUENCES = 256
"""Most sequences that vLLM is started for where `max_batch_size` is no more: it may grow so far without a restart."""
_THREADS = "VLLM_CPU_OMP_THREADS_BIND"
_NODES_THREADS = os.environ.get(_THREADS)
"""What the node says of it, which holds."""
_START_ERRORS = (OSError, ValueError, TypeError, KeyError, ImportError, AttributeError, RuntimeError)
"""What vLLM raises for arguments or models that it cannot use; it has no error of its own."""


def load(arguments: ModelArguments, folder: Path, batching: Batching) -> Engine:
    """The engine table's loader."""
    if current_platform.is_cpu():
        _bind_threads(arguments)
    guard = Guard()
    try:
        load = load_whole_tokenizer if arguments.embeds else load_tokenizer
        tokenizer: Tokenizer = load(folder, **_code(arguments))
        args = _engine_args(arguments, folder, batching)
        adapters = adapters_of(arguments, folder, LoRAConfig(max_lora_rank=args.max_lora_rank))
        engine = AsyncLLM.from_engine_args(args)
    except ConfigError:
        guard.leave()
        raise
    except (EngineError, *_START_ERRORS) as error:
        guard.leave()
        raise ConfigError(_KWARGS, arguments.declared_in, f"vLLM cannot start: {error}") from error
    guard.complete()
    loaded = VllmEngine(engine, guard, tokenizer, _end_tokens(folder, tokenizer), batching)
    loaded.adapters = adapters
    return loaded


def _end_tokens(folder: Path, tokenizer: Tokenizer) -> list[int]:
    """The model's, and the tokenizer's own, which vLLM takes for one in any case."""
    own = tokenizer.special_tokens.get("eos_token")
    return sorted({*end_tokens_of(folder), *(tokenizer.encode(own, start=False) if own else ())})


def _config(arguments: ModelArguments) -> VLLM:
    config = arguments.initialization.initializer
    assert isinstance(config, VLLM)
    return config


def _code(arguments: ModelArguments) -> dict[str, Any]:
    kwargs = _config(arguments).engine_kwargs
    return {name: value for name, value in kwargs.items() if name in ("trust_remote_code", "code_revision")}


def _engine_args(arguments: ModelArguments, folder: Path, batching: Batching) -> AsyncEngineArgs:
    """Raises TypeError for an argument that vLLM does not have, ValueError for workers that its stages cannot share."""
    kwargs, workers = _config(arguments).engine_kwargs, arguments.scaling_config.num_workers
    stages = kwargs.get("pipeline_parallel_size", 1)
    if not isinstance(stages, int) or stages < 1 or workers % stages:
        raise ValueError(f"pipeline_parallel_size must divide scaling_config.num_workers ({workers}), and is {stages}")
    ours: dict[str, Any] = {
        "model": str(folder),
        "served_model_name": arguments.model_id,
        "max_num_seqs": max(batching.max_size, _SEQUENCES),
        "tensor_parallel_size": workers // stages,
        "enable_lora": bool(_config(arguments).lora_modules),
        "disable_log_stats": True,
        "structured_outputs_config": {"backend": "guidance"},  # what the other engines use, with the same meaning
    }
    if arguments.embeds:
        ours["runner"] = "pooling"
    if workers > 1 and not current_platform.is_cpu():  # on CPUs vLLM knows processes of one machine only
        ours["distributed_executor_backend"] = "ray"
    args = AsyncEngineArgs(**{**ours, **kwargs})
    if stages > 1 and args.enforce_eager and current_platform.is_cpu():
        # vLLM would start, and die of the first request.
        raise ValueError("on CPUs pipeline_parallel_size goes without enforce_eager only")
    if args.enable_lora and current_platform.is_cpu():
        # vLLM on CPUs takes what lies in the last place for a request without adapter: a place too many stays empty.
        args.max_loras = max(args.max_loras, len(_config(arguments).lora_modules) + 1)
    return args


def _bind_threads(arguments: ModelArguments) -> None:
    """Give each worker as many CPUs as it has: by itself vLLM keeps one of the machine's for its own front.

    Where the machine has fewer, workers share them.
    """
    cpus, scaling = sorted(os.sched_getaffinity(0)), arguments.scaling_config
    size = min(max(1, round(scaling.num_cpus_per_worker)), len(cpus))
    places = [(rank * size + index) % len(cpus) for rank in range(scaling.num_workers) for index in range(size)]
    groups = [sorted(cpus[place] for place in places[begin : begin + size]) for begin in range(0, len(places), size)]
    ours = "|".join(",".join(map(str, group)) for group in groups)
    os.environ[_THREADS] = _NODES_THREADS or ours


class VllmEngine(Engine):
    """vLLM behind the contract."""

    def __init__(
        self, engine: AsyncLLM, guard: Guard, tokenizer: Tokenizer, end_tokens: Sequence[int], batching: Batching
    ) -> None:
        self._engine = engine
        self._guard = guard
        self.tokenizer = tokenizer
        self._end_tokens = frozenset(end_tokens)
        config = engine.model_config
        vocabulary = config.get_vocab_size()
        most_logprobs = vocabulary if config.max_logprobs < 0 else config.max_logprobs
        embeds = config.runner_type == "pooling"
        self.limits = Limits(config.max_model_len, vocabulary, embeds, most_logprobs, least_new_tokens=1)
        self._grammars = Grammars(tokenizer, vocabulary, self._end_tokens)
        self._most = engine.vllm_config.scheduler_config.max_num_seqs
        self.adapters = Adapters({})
        self._numbers = map(str, itertools.count())
        self._slots = batching.max_size
        self._running: dict[str, int] = {}
        """The number of tokens of each answer under way, its prompt's included."""
        self._place_free = asyncio.Condition()
        self._closed = False

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[list[int], None]:
        matcher = await self._grammars.matcher(sampling.constraint) if sampling.constraint else None
        number = next(self._numbers)
        async with self._place(number):
            yield []
            self._check_open()
            self._running[number] = len(prompt)
            asked = _prompt(prompt, sampling.owner)
            adapter = await self.adapters.find(sampling.adapter, self._engine)
            outputs = self._engine.generate(asked, self._parameters(sampling), number, lora_request=adapter)
            with _as_ours():
                async with aclosing(outputs):
                    async for output in outputs:
                        answer = output.outputs[0]
                        self._running[number] += len(answer.token_ids)
                        if answer.finish_reason == "abort" or self._closed:
                            raise EngineDeadError("the engine has stopped")
                        told = list(self._told(_tokens_of(answer, sampling), sampling))
                        if matcher:
                            matcher.accept([token for token in told if not isinstance(token, EndToken)])
                        if tokens := [*_echoed(prompt, output.prompt_logprobs or (), sampling), *told]:
                            yield tokens
                        _check_end(answer.finish_reason, matcher)

    async def embed(self, prompt: Sequence[int]) -> list[float]:
        number = next(self._numbers)
        async with self._place(number):
            outputs = self._engine.encode({"prompt_token_ids": list(prompt)}, PoolingParams(task="embed"), number)
            with _as_ours():
                async with aclosing(outputs):
                    async for output in outputs:
                        vector: list[float] = output.outputs.data.float().tolist()
                        return vector
            raise EngineDeadError("the engine has stopped")  # which ends what it works at

    @asynccontextmanager
    async def _place(self, number: str) -> AsyncIterator[None]:
        """Wait for one of the slots, and hold it."""
        async with self._place_free:
            await self._place_free.wait_for(lambda: self._closed or len(self._running) < self._slots)
            self._check_open()
            self._running[number] = 0
        try:
            yield
        finally:
            del self._running[number]
            async with self._place_free:
                self._place_free.notify_all()

    def _told(self, tokens: Sequence[int], sampling: Sampling) -> Iterator[int]:
        """What of the tokens that vLLM makes belongs to the answer; it makes one at the least."""
        for token in tokens[: sampling.max_new_tokens]:
            if token not in self._end_tokens:
                yield token
            elif sampling.echo and isinstance(token, ScoredToken):
                yield EndToken(token, token.logprob, token.top)

    def _parameters(self, sampling: Sampling) -> SamplingParams:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=sampling.seed,
            logit_bias=dict(sampling.logit_bias) or None,
            logprobs=sampling.logprobs,
            prompt_logprobs=sampling.logprobs if sampling.echo else None,
            max_tokens=max(1, sampling.max_new_tokens),
            min_tokens=sampling.min_new_tokens,
            stop_token_ids=sorted(self._end_tokens),
            output_kind=RequestOutputKind.DELTA,
            detokenize=False,
            structured_outputs=_structured(sampling.constraint) if sampling.constraint else None,
        )

    def _check_open(self) -> None:
        if self._closed:
            raise EngineDeadError("the engine has stopped")

    async def check(self, constraint: Constraint) -> None:
        await self._grammars.matcher(constraint)

    async def configure(self, batching: Batching) -> None:
        if batching.max_size > self._most:
            raise EngineError(f"vLLM was started for at most {self._most} sequences; more need a new replica")
        async with self._place_free:
            self._slots = batching.max_size
            self._place_free.notify_all()

    async def cache_use(self) -> float | None:
        """What is here says enough of it, less what prompts share: vLLM's own figure costs a record of every step."""
        cache = self._engine.vllm_config.cache_config
        places: int = (cache.num_gpu_blocks or 0) * cache.block_size
        return min(1.0, sum(self._running.values()) / places) if places else None

    async def check_health(self) -> None:
        self._check_open()
        try:
            await self._engine.check_health()
            await self._engine.is_sleeping()  # goes through the loop that computes, and answers between two steps
        except VllmDeadError as error:
            raise EngineDeadError(f"vLLM has died: {error}") from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        async with self._place_free:
            self._place_free.notify_all()
        await self._engine.abort(list(self._running))
        await asyncio.to_thread(self._grammars.close)
        await asyncio.to_thread(self._engine.shutdown)
        await asyncio.to_thread(self._guard.leave)
        del self._engine  # it would shut down once more when Python ends, and fail then


@contextmanager
def _as_ours() -> Iterator[None]:
    """What vLLM raises while it works on a request becomes EngineError."""
    try:
        yield
    except VllmDeadError as error:
        raise EngineDeadError(f"vLLM has died: {error}") from error
    except (EngineGenerateError, VLLMError, ValueError) as error:
        raise EngineError(f"vLLM failed: {error}") from error


def _prompt(prompt: Sequence[int], owner: str) -> TokensPrompt:
    """vLLM shares prefixes between prompts with the same salt."""
    asked = TokensPrompt(prompt_token_ids=list(prompt))
    if owner:
        asked["cache_salt"] = owner
    return asked


def _check_end(reason: str | None, matcher: Matcher | None) -> None:
    """vLLM ends an answer that its grammar cannot follow any further as if it were whole. Raises EngineError."""
    if reason in ("stop", "error") and matcher and not matcher.may_end:
        raise GrammarError(matcher.problem or "vLLM could not follow it to its end")
    if reason == "error":
        raise EngineError("vLLM failed on this request")


def _structured(constraint: Constraint) -> StructuredOutputsParams:
    if constraint.kind == "json_schema":
        return StructuredOutputsParams(json=constraint.text)
    return StructuredOutputsParams(grammar=f"%llguidance {{}}\n{constraint.text}")  # else it may take it for GBNF


def _tokens_of(answer: CompletionOutput, sampling: Sampling) -> list[int]:
    if sampling.logprobs is None:
        return list(answer.token_ids)
    return [
        _scored(token, {each: found.logprob for each, found in logprobs.items()}, sampling.logprobs)
        for token, logprobs in zip(answer.token_ids, answer.logprobs, strict=True)
    ]


def _echoed(
    prompt: Sequence[int], logprobs: Sequence[Mapping[int, Logprob] | None], sampling: Sampling
) -> Iterator[ScoredToken]:
    """The prompt's tokens, which come with the first of the answer. vLLM tells nothing of the very first."""
    for token, found in list(zip(prompt, logprobs, strict=False))[1:]:
        assert found is not None and sampling.logprobs is not None
        yield _scored(token, {each: one.logprob for each, one in found.items()}, sampling.logprobs)


def _scored(token: int, logprobs: Mapping[int, float], count: int) -> ScoredToken:
    """vLLM tells of the most likely tokens, and of the one that it chose besides where it is none of them."""
    ranked = sorted(logprobs.items(), key=itemgetter(1), reverse=True)
    return ScoredToken(token, logprobs[token], tuple(ranked[:count]))
