"""Generation in this process, with the policy as it lies in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sppo_lightning.engines.base import Engine
from sppo_lightning.engines.decoding import decode
from sppo_lightning.engines.mixed_policy import MixedPolicy
from sppo_lightning.engines.sampling import sampling_config
from sppo_lightning.engines.seeded_sampler import SeededSampler
from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.functional.logps import split_rows
from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.types import Candidates, FinishReason, PolicyHandle, Prompt


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
        self._check_room(prompts, prompt_ids, model.config)
        eos_ids = _terminators(model.generation_config.eos_token_id, tokenizer.eos_token_id)
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else next(iter(eos_ids), 0)

        with _eval_mode(model):
            answers = self._answers(model, prompt_ids, seeds_BK, eos_ids, pad_id, mixed_with)
        self._check_numbers(prompts, answers)
        answers_BK = [[answers[b, k] for k in range(len(seeds))] for b, seeds in enumerate(seeds_BK)]
        token_ids_BK = [[token_ids for token_ids, _ in answers_K] for answers_K in answers_BK]
        return Candidates(
            prompts=prompts,
            prompt_token_ids=prompt_ids,
            token_ids=token_ids_BK,
            texts=[tokenizer.batch_decode(token_ids_K, skip_special_tokens=True) for token_ids_K in token_ids_BK],
            finish_reasons=[[_finish_reason(ids, eos_ids) for ids in token_ids_K] for token_ids_K in token_ids_BK],
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

    def _check_room(self, prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]], config: Any) -> None:
        """Refuses prompts that leave no room for `max_new_tokens` among the model's positions."""
        positions = getattr(config.get_text_config(), "max_position_embeddings", None)
        if positions is None:
            return
        room = positions - self.sampling.max_new_tokens
        too_long = [b for b, ids in enumerate(prompt_ids) if len(ids) > room]
        if not too_long:
            return
        longest = max(too_long, key=lambda b: len(prompt_ids[b]))
        raise EngineError(
            f"Prompt {prompts[longest].prompt_id} has {len(prompt_ids[longest])} tokens; with "
            f"data.engine.max_new_tokens={self.sampling.max_new_tokens} that is more than the policy's {positions} "
            f"positions ({len(too_long)} of {len(prompts)} prompts are too long). Lower data.engine.max_new_tokens, or "
            f"remove these prompts from data.prompts"
        )

    def _check_numbers(
        self, prompts: Sequence[Prompt], answers: Mapping[tuple[int, int], tuple[list[int], float]]
    ) -> None:
        """Refuses what a policy with broken weights answered."""
        assert self._policy is not None
        broken = next((b for (b, _), (_, logp) in answers.items() if not math.isfinite(logp)), None)
        if broken is not None:
            raise EngineError(
                f"Policy {self._policy.name} answers prompt {prompts[broken].prompt_id} with logits that are not "
                f"numbers: its weights have diverged. Train its round again with a lower learning rate "
                f"(model.optimizer) or a smaller model.max_grad_norm"
            )


def _terminators(*sources: int | Sequence[int] | None) -> list[int]:
    """Every id that ends a response, without repetition: chat models often have several."""
    ids: list[int] = []
    for source in sources:
        ids += [] if source is None else [source] if isinstance(source, int) else list(source)
    return list(dict.fromkeys(ids))


def _finish_reason(token_ids: Sequence[int], eos_ids: Sequence[int]) -> FinishReason:
    return "stop" if token_ids[-1] in eos_ids else "length"


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
