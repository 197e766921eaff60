"""Generation in this process, with the policy as it lies in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sppo_lightning.engines.base import Engine
from sppo_lightning.engines.checks import check_numbers, check_room
from sppo_lightning.engines.decoding import decode
from sppo_lightning.engines.mixed_policy import MixedPolicy
from sppo_lightning.engines.sampling import sampling_config
from sppo_lightning.engines.seeded_sampler import SeededSampler
from sppo_lightning.engines.terminators import finish_reason, terminators
from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.functional.rows import split_rows
from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.types import Candidates, PolicyHandle, Prompt


class Transformers(Engine):
    """Samples with `transformers`' own `generate`: no server, no copy of the weights, any model, CPU or GPU.

    All K responses of a prompt are decoded together from one prefill of it, prompts of similar length share a batch,
    and each response has its own random stream. For a large policy on a GPU an engine with paged attention is faster.

    The defaults sample from the policy itself (temperature 1, no filter), as the theory of self-play asks; the official
    SPPO scripts sample at temperature 0.7 and top-p 0.9.

    Args:
        temperature: divides the logits; 1 samples from the policy itself, 0 takes the most likely token.
        top_p: keep the smallest set of most likely tokens with at least this probability; 1 keeps all.
        top_k: keep this many of the most likely tokens; 0 keeps all.
        max_new_tokens: tokens after which a response is cut off (finish reason "length").
        batch_tokens: responses of a batch times (longest prompt + max_new_tokens); bounds the memory of the key-value
            cache. Lower it if generation runs out of memory.

    Raises:
        ConfigError: an argument outside its range.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 512,
        batch_tokens: int = 65_536,
    ) -> None:
        if batch_tokens < 1:
            raise ConfigError(f"data.engine.batch_tokens must be at least 1; got {batch_tokens}")
        self.sampling = sampling_config(
            temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens
        )
        self.batch_tokens = batch_tokens
        self._policy: PolicyHandle | None = None

    def open(self, policy: PolicyHandle) -> None:
        """Answers with `policy.model`, where it is and in its dtype, or with a `MixedPolicy` of two."""
        self._policy = policy

    def close(self) -> None:
        """Lets go of the policy; its weights belong to whoever made the handle."""
        self._policy = None

    def generate(self, prompts: Sequence[Prompt], seeds_BK: Sequence[Sequence[int]]) -> Candidates:
        """Samples one response for each seed.

        The global random state and the model's train or eval mode are the same afterwards.

        Args:
            prompts: B prompts, in any order.
            seeds_BK: [B][K] 63-bit seeds; K may differ between prompts.

        Returns:
            K responses for each prompt, with the sampler's log-probabilities.

        Raises:
            EngineError: the engine is not open, a prompt leaves no room for `max_new_tokens`, or the policy's logits
                are not numbers.
        """
        if self._policy is None:
            raise EngineError("The Transformers engine is not open: call open(policy) before generate(...)")
        mixed_with: tuple[Any, float] | None = None
        if isinstance(self._policy, MixedPolicy):
            model: Any = self._policy.base.model
            mixed_with = self._policy.other.model, self._policy.other_weight
        else:
            model = self._policy.model
        tokenizer = self._policy.tokenizer
        prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
        check_room(prompts, prompt_ids, self.sampling.max_new_tokens, model.config)
        eos_ids = terminators(model.generation_config.eos_token_id, tokenizer.eos_token_id)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(eos_ids), 0)

        with _eval_mode(model):
            answers = self._answers(model, prompt_ids, seeds_BK, eos_ids, pad_id, mixed_with)
        check_numbers(self._policy.name, prompts, ((b, logp) for (b, _), (_, logp) in answers.items()))
        answers_BK = [[answers[b, k] for k in range(len(seeds))] for b, seeds in enumerate(seeds_BK)]
        token_ids_BK = [[token_ids for token_ids, _ in answers_K] for answers_K in answers_BK]
        return Candidates(
            prompts=prompts,
            prompt_token_ids=prompt_ids,
            token_ids=token_ids_BK,
            texts=[tokenizer.batch_decode(token_ids_K, skip_special_tokens=True) for token_ids_K in token_ids_BK],
            finish_reasons=[[finish_reason(ids, eos_ids) for ids in token_ids_K] for token_ids_K in token_ids_BK],
            sampler_logps=[[logp for _, logp in answers_K] for answers_K in answers_BK],
            policy=self._policy.name,
            sampling=self.sampling,
        )

    def _answers(
        self,
        model: Any,
        prompt_ids: Sequence[Sequence[int]],
        seeds_BK: Sequence[Sequence[int]],
        eos_ids: Sequence[int],
        pad_id: int,
        mixed_with: tuple[Any, float] | None,
    ) -> dict[tuple[int, int], tuple[list[int], float]]:
        """(b, k) -> the response's tokens and their summed log-probability, batch by batch."""
        keys = [(b, k) for b, seeds in enumerate(seeds_BK) for k in range(len(seeds))]
        lengths = [len(prompt_ids[b]) + self.sampling.max_new_tokens for b, _ in keys]
        answers: dict[tuple[int, int], tuple[list[int], float]] = {}
        for batch in split_rows(lengths, self.batch_tokens):
            batch_keys = [keys[row] for row in batch]
            place = {b: place for place, b in enumerate(dict.fromkeys(b for b, _ in batch_keys))}
            sampler = SeededSampler([seeds_BK[b][k] for b, k in batch_keys], self.sampling)
            token_ids_N = decode(
                model,
                [prompt_ids[b] for b in place],
                [place[b] for b, _ in batch_keys],
                sampler,
                max_new_tokens=self.sampling.max_new_tokens,
                eos_ids=eos_ids,
                pad_id=pad_id,
                mixed_with=mixed_with,
            )
            for key, token_ids, logps_S in zip(batch_keys, token_ids_N, sampler.chosen_logps.tolist(), strict=True):
                answers[key] = token_ids, math.fsum(logps_S[: len(token_ids)])
        return answers


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Switches dropout and gradient checkpointing off, and each module back to the mode it was in."""
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True
