"""Generation by vLLM in worker processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppo_lightning.engines import vllm_worker
from sppo_lightning.engines.base import Engine
from sppo_lightning.engines.checks import check_numbers, check_room
from sppo_lightning.engines.sampling import sampling_config
from sppo_lightning.engines.terminators import finish_reason
from sppo_lightning.engines.vllm_support import (
    can_take_the_place,
    check_heads,
    check_installed,
    policy_terminators,
    read_config,
)
from sppo_lightning.engines.worker_environment import device_groups, worker_environment
from sppo_lightning.engines.worker_pool import WorkerPool
from sppo_lightning.engines.worker_process import WorkerProcess
from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.types import Candidates, PolicyHandle, Prompt

# Room for prompts beyond the longest one so far, so that a longer one in a later chunk needs no new worker.
_PROMPT_TOKENS = 4096
_Key = tuple[int, int]


class VLLM(Engine):
    """Samples with vLLM: paged attention, one worker process for each GPU, or one on the CPU.

    The workers read the policy from its folder, so its weights lie in memory twice while they live; they start with the
    first prompts after `open` and end with `close`, which gives all of their memory back. Responses are not the same
    in every bit when a prompt is asked among other ones: what a round has stored is never asked again.

    Args:
        temperature: divides the logits; 1 samples from the policy itself, 0 takes the most likely token; at most 2.
        top_p: keep the smallest set of most likely tokens with at least this probability; 1 keeps all.
        top_k: keep this many of the most likely tokens; 0 keeps all.
        max_new_tokens: tokens after which a response is cut off (finish reason "length").
        tensor_parallel_size: GPUs that hold one copy of the policy together.
        gpu_memory_utilization: a worker's share of all the memory of its GPU. Not set: nine tenths of what is free when
            it starts. On the CPU: the key-value cache's share of the main memory; not set: a tenth of what is free, at
            most 4 GiB.
        enforce_eager: no CUDA graphs: a faster start and slower answers. The CPU never has any.
        offload_training: weights and optimiser of the policy in training wait in main memory while workers live.
        python: an interpreter that has vLLM, such as /opt/vllm/bin/python, where this one has not.
        timeout_s: a worker that takes longer to start, or to its next tokens, is killed.
        retries: how often prompts are asked again, by a fresh worker, when theirs has died, hung or failed.

    Raises:
        ConfigError: an argument outside its range.
    """

    reads_folder = True

    def __init__(
        self,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 512,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float | None = None,
        enforce_eager: bool = False,
        offload_training: bool = False,
        python: str | None = None,
        timeout_s: float = 900.0,
        retries: int = 2,
    ) -> None:
        if temperature > 2 or 0 < temperature < 0.01:
            raise ConfigError(
                f"data.engine.temperature must be 0 (greedy) or 0.01 to 2 for vLLM; got {temperature}. Engine "
                "Transformers takes any"
            )
        if tensor_parallel_size < 1:
            raise ConfigError(f"data.engine.tensor_parallel_size must be at least 1; got {tensor_parallel_size}")
        if gpu_memory_utilization is not None and not 0 < gpu_memory_utilization < 1:
            raise ConfigError(
                f"data.engine.gpu_memory_utilization must lie between 0 and 1; got {gpu_memory_utilization}"
            )
        if timeout_s <= 0:
            raise ConfigError(f"data.engine.timeout_s must be positive; got {timeout_s}")
        if retries < 0:
            raise ConfigError(f"data.engine.retries must be at least 0; got {retries}")
        self.sampling = sampling_config(
            temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens
        )
        self.tensor_parallel_size = tensor_parallel_size
        self.gpu_memory_utilization = gpu_memory_utilization
        self.enforce_eager = enforce_eager
        self.offload_training = offload_training
        self.python = python
        self.timeout_s = timeout_s
        self.retries = retries
        self._opened: _Opened | None = None
        self._times_opened = 0
        self._pool: WorkerPool | None = None
        self._max_model_len = 0

    def check(self, source: str) -> None:
        """Refuses where vLLM is missing or cannot serve a policy; see `Engine`."""
        check_installed(self.python)
        check_heads(source, read_config(source))
        device_groups(self.tensor_parallel_size)

    def open(self, policy: PolicyHandle) -> None:
        """Answers with the weights in `policy.folder`; workers that live read them in place where vLLM can.

        Raises:
            ConfigError: vLLM is missing or cannot serve the policy.
        """
        source = policy.folder
        self.check(source)
        config = read_config(source)
        before = self._opened
        if before and (policy.dtype != before.policy.dtype or not can_take_the_place(config, before.config)):
            self._end_workers()
        self._times_opened += 1
        self._opened = _Opened(
            policy=policy,
            source=resolve(source),
            version=self._times_opened,
            config=config,
            terminators=policy_terminators(source, config, policy.tokenizer),
        )
        if self.offload_training and self.lender is not None:
            self.lender.lend()

    def close(self) -> None:
        """Ends the workers, waits until they are gone, and has the training state back on its device."""
        self._opened = None
        try:
            self._end_workers()
        finally:
            if self.lender is not None:
                self.lender.take_back()

    def generate(self, prompts: Sequence[Prompt], seeds_BK: Sequence[Sequence[int]]) -> Candidates:
        """Samples one response for each seed.

        Args:
            prompts: B prompts, in any order.
            seeds_BK: [B][K] 63-bit seeds; K may differ between prompts.

        Returns:
            K responses for each prompt, with vLLM's log-probabilities at temperature 1.

        Raises:
            EngineError: the engine is not open, a prompt leaves no room for `max_new_tokens` or has tokens that the
                policy lacks, the policy's logits are not numbers, or a worker failed more often than `retries` allows;
                the last lines of its log follow.
        """
        if self._opened is None:
            raise EngineError("The VLLM engine is not open: call open(policy) before generate(...)")
        opened = self._opened
        tokenizer = opened.policy.tokenizer
        prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
        check_room(prompts, prompt_ids, self.sampling.max_new_tokens, opened.config)
        _check_vocabulary(opened, prompts, prompt_ids)
        answers = self._answers(opened, prompt_ids, seeds_BK) if prompts else {}
        check_numbers(opened.policy.name, prompts, ((b, logp) for (b, _), (_, logp) in answers.items()))
        answers_BK = [[answers[b, k] for k in range(len(seeds))] for b, seeds in enumerate(seeds_BK)]
        token_ids_BK = [[token_ids for token_ids, _ in answers_K] for answers_K in answers_BK]
        return Candidates(
            prompts=prompts,
            prompt_token_ids=prompt_ids,
            token_ids=token_ids_BK,
            texts=[tokenizer.batch_decode(token_ids_K, skip_special_tokens=True) for token_ids_K in token_ids_BK],
            finish_reasons=[[finish_reason(ids, opened.terminators) for ids in ids_K] for ids_K in token_ids_BK],
            sampler_logps=[[logp for _, logp in answers_K] for answers_K in answers_BK],
            policy=opened.policy.name,
            sampling=self.sampling,
        )

    def _answers(
        self, opened: _Opened, prompt_ids: Sequence[Sequence[int]], seeds_BK: Sequence[Sequence[int]]
    ) -> dict[_Key, tuple[list[int], float]]:
        """(b, k) -> the response's tokens and their summed log-probability."""
        groups = device_groups(self.tensor_parallel_size)
        # Long and short prompts to every worker alike, all responses to a prompt from the same one.
        by_length = sorted(range(len(prompt_ids)), key=lambda b: len(prompt_ids[b]))
        keys = {
            slot: [(b, k) for b in by_length[slot :: len(groups)] for k in range(len(seeds_BK[b]))]
            for slot in range(min(len(groups), len(by_length)))
        }
        pool = self._pool_with_room(opened, groups, max(map(len, prompt_ids)) + self.sampling.max_new_tokens)
        answers = pool.answers(
            {slot: self._question(opened, share, prompt_ids, seeds_BK) for slot, share in keys.items()}
        )
        return {
            key: (token_ids, logp)
            for slot, share in keys.items()
            for key, (token_ids, logp) in zip(share, answers[slot], strict=True)
        }

    def _question(
        self,
        opened: _Opened,
        keys: Sequence[_Key],
        prompt_ids: Sequence[Sequence[int]],
        seeds_BK: Sequence[Sequence[int]],
    ) -> dict[str, Any]:
        place = {b: place for place, b in enumerate(dict.fromkeys(b for b, _ in keys))}
        return {
            "model": opened.source,
            "version": opened.version,
            "prompts": [list(prompt_ids[b]) for b in place],
            "requests": [(place[b], _seed(seeds_BK[b][k])) for b, k in keys],
            "stop_token_ids": opened.terminators,
            "sampling": {
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "top_k": self.sampling.top_k,
                "max_tokens": self.sampling.max_new_tokens,
            },
        }

    def _pool_with_room(self, opened: _Opened, groups: Sequence[str | None], tokens: int) -> WorkerPool:
        """Workers whose context holds so many tokens; those in which it does not are ended."""
        if self._pool is not None and tokens <= self._max_model_len:
            return self._pool
        self._end_workers()
        positions = getattr(opened.config.get_text_config(), "max_position_embeddings", None)
        wanted = max(tokens, self.sampling.max_new_tokens + _PROMPT_TOKENS)
        self._max_model_len = min(wanted, positions or wanted)
        self._pool = WorkerPool(
            lambda slot: self._start_worker(groups[slot]),
            lambda slot: f"data.engine VLLM: worker {slot}" + (f" on GPU {groups[slot]}" if groups[slot] else ""),
            self.retries,
        )
        return self._pool

    def _start_worker(self, devices: str | None) -> WorkerProcess:
        assert self._opened is not None
        return WorkerProcess(
            # -P: the worker's own folder holds a transformers.py.
            [self.python or sys.executable, "-P", str(Path(vllm_worker.__file__).resolve())],
            worker_environment(devices, own_interpreter=self.python is None),
            {
                "model": self._opened.source,
                "version": self._opened.version,
                "dtype": str(self._opened.policy.dtype).removeprefix("torch."),
                "max_model_len": self._max_model_len,
                "tensor_parallel_size": self.tensor_parallel_size,
                "gpu_memory_utilization": self.gpu_memory_utilization,
                "enforce_eager": self.enforce_eager,
            },
            self.timeout_s,
        )

    def _end_workers(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._pool = None


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """The policy that answers.

    Attributes:
        source: its folder or hub id.
        version: counts the policies that were opened; a folder may come to hold other weights.
        config: its transformers configuration.
        terminators: the ids that end a response.
    """

    policy: PolicyHandle
    source: str
    version: int
    config: Any
    terminators: list[int]


def _seed(seed: int) -> int:
    """A seed for the generators of the CPU, which look at its low 32 bits alone."""
    return seed ^ (seed >> 32)


def _check_vocabulary(opened: _Opened, prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]]) -> None:
    """Refuses tokens that the policy has no embedding for."""
    size = opened.config.get_text_config().vocab_size
    alien = next((b for b, ids in enumerate(prompt_ids) if max(ids) >= size), None)
    if alien is not None:
        raise EngineError(
            f"Prompt {prompts[alien].prompt_id} has the token {max(prompt_ids[alien])}, and policy "
            f"{opened.policy.name} knows {size} tokens: its tokenizer and its model do not belong together. Give "
            "model.policy a folder in which they do"
        )
