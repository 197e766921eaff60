"""Sampling in which every row of a batch has a random stream of its own.

Shapes: N rows, S steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from sppo_lightning.types import SamplingConfig


class SeededSampler(LogitsProcessor):
    """Chooses each row's next token from the row's seed and forces it, for `generate(do_sample=False)`.

    The s-th token of a row is where the cumulative distribution passes the s-th number of the row's stream, so it
    depends on the row's logits and seed alone: not on the batch around it, its place in the batch, or the global
    random state. Sampling by `torch.multinomial` would share one stream among all rows.

    One instance serves one batch from its first token on, over as many calls of `generate` as that takes.

    Args:
        seeds: [N] one 63-bit seed a row.
        sampling: temperature 0 takes the most likely token and ignores the seeds.
    """

    def __init__(self, seeds: Sequence[int], sampling: SamplingConfig) -> None:
        self._rows = list(range(len(seeds)))
        # Not torch.Generator: it keeps only the lowest 32 of a seed's bits.
        self._uniforms_NS = torch.from_numpy(
            np.stack(
                [np.random.Generator(np.random.Philox(key=seed)).random(sampling.max_new_tokens) for seed in seeds]
            )
        )
        self._greedy = sampling.temperature == 0
        self._warp = LogitsProcessorList()
        if sampling.temperature not in (0, 1):
            self._warp.append(TemperatureLogitsWarper(float(sampling.temperature)))
        if sampling.top_k > 0:
            self._warp.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1:
            self._warp.append(TopPLogitsWarper(float(sampling.top_p)))
        self._steps: list[tuple[list[int], Tensor]] = []

    def keep(self, places: Sequence[int]) -> None:
        """Lets go of finished rows: from now on the scores are those of these of the current rows, in this order."""
        self._rows = [self._rows[place] for place in places]

    @property
    def chosen_logps(self) -> Tensor:
        """[N, S] log-probability in nats at temperature 1, before any filter, of the tokens chosen so far.

        0 where a row had been let go of. On the CPU.
        """
        logps_NS = torch.zeros(len(self._uniforms_NS), len(self._steps))
        for step, (rows, logps) in enumerate(self._steps):
            logps_NS[rows, step] = logps.cpu()
        return logps_NS

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores in which only the chosen token is possible.

        Args:
            input_ids: [N, T] the rows so far, unused.
            scores: [N, V] float32 logits of the next token.
        """
        if self._greedy:
            tokens_N1 = scores.argmax(dim=-1, keepdim=True)
        else:
            uniforms_N1 = self._uniforms_NS[self._rows, len(self._steps), None]
            with _any_algorithm():
                tokens_N1 = inverse_cdf(self._warp(input_ids, scores).softmax(dim=-1), uniforms_N1)
        logps_N1 = scores.gather(1, tokens_N1) - scores.logsumexp(dim=-1, keepdim=True)
        self._steps.append((self._rows, logps_N1.squeeze(1)))
        forced_NV = torch.full_like(scores, -torch.inf).scatter_(1, tokens_N1, 0.0)
        return cast(torch.FloatTensor, forced_NV)


@contextmanager
def _any_algorithm() -> Iterator[None]:
    """Suspends `torch.use_deterministic_algorithms`, which forbids cumulative sums on CUDA: top-p needs one, too.

    A sum in another order changes a choice only within its last bit, like the rest of a batch does.
    """
    enabled, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def inverse_cdf(probs_NV: Tensor, uniforms_N1: Tensor) -> Tensor:
    """The first token of each row at which the cumulative probability exceeds the row's uniform number.

    A token of probability 0 is never chosen. In float64: in float32 the unlikely half of a vocabulary of 128,000 would
    vanish in the rounding of a cumulative sum near 1.

    Args:
        probs_NV: non-negative, with a positive sum; need not be normalised to the last bit.
        uniforms_N1: float64 in [0, 1), on the CPU.

    Returns:
        [N, 1] int64 on the device of `probs_NV`.
    """
    # MPS has no float64.
    device = torch.device("cpu") if probs_NV.device.type == "mps" else probs_NV.device
    cdf_NV = probs_NV.to(device).double().cumsum(dim=-1)
    # For every float64 u < 1 the product u * total rounds to less than total, so some entry exceeds it.
    tokens_N1 = torch.searchsorted(cdf_NV, uniforms_N1.to(device) * cdf_NV[:, -1:], right=True)
    # Only not-a-number probabilities lead past the end. The caller sees them in the log-probabilities; an index out of
    # range would kill a CUDA context before it could say so.
    return tokens_N1.clamp_(max=probs_NV.shape[-1] - 1).to(probs_NV.device)
