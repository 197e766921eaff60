"""The shipped losses, minimised by gradient on a softmax table: what one round of training aims at, without a model.

A policy is a table of N logits, one for each response of a game. The population fits weigh every response (or labelled
pair) by its probability; the sampled fits draw prompts with K candidates each, as a round does.
`benchmarks/lab.py` runs these at full size, `tests/functional/test_games_fits.py` at small size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppo_lightning import objectives
from sppo_lightning.functional import tabular
from sppo_lightning.functional.games import Array, duality_gap, win_rates
from sppo_lightning.objectives.base import Objective
from sppo_lightning.types import ObjectiveInputs


def total_variation(first_N: Array, second_N: Array) -> float:
    """Half the L1 distance of two policies given as log-probabilities."""
    return float(np.abs(np.exp(first_N) - np.exp(second_N)).sum() / 2)


def exact_step(probs_NN: Array, logps_N: Array, eta: float) -> Array:
    return tabular.play(tabular.SPPO(eta), probs_NN, logps_N, logps_N, 1)[1]


def fit(
    objective: Objective, data: Mapping[str, Tensor], frozen_N: Mapping[str, Array], max_gradient: float = 1e-13
) -> Array:
    """Minimises an objective over the table, starting from the policy "previous" or "auxiliary" of `frozen_N`.

    Args:
        objective: the shipped loss.
        data: response_R (which response each row is), and the fields of ObjectiveInputs that are not log-probabilities.
        frozen_N: name -> log-probabilities of the frozen policies.
        max_gradient: where to stop.

    Returns:
        [N] log-probabilities.
    """
    fields = dict(data)
    response_R = fields.pop("response_R")
    frozen = {name: torch.from_numpy(logps) for name, logps in frozen_N.items()}
    logits_N = next(iter(frozen.values())).clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits_N],
        max_iter=300,
        history_size=30,
        tolerance_grad=max_gradient,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        outputs = objective(
            ObjectiveInputs(
                policy_logps_R=logits_N.log_softmax(0)[response_R],
                frozen_logps={name: logps[response_R] for name, logps in frozen.items()},
                num_tokens_R=torch.ones_like(response_R),
                prompt_R=torch.zeros_like(response_R),
                **fields,
            )
        )
        loss = (outputs.loss * outputs.weight).sum() / outputs.weight.sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits_N.detach().log_softmax(0).numpy()


def population_rows(probs_NN: Array, logps_N: Array) -> dict[str, Tensor]:
    """Every response once, weighted by its probability under the policy, with its exact win rate against it."""
    policy_N = np.exp(logps_N)
    return _data(np.arange(len(policy_N)), win_rates(probs_NN, policy_N), weight_R=policy_N)


def population_pairs(probs_NN: Array, logps_N: Array) -> dict[str, Tensor]:
    """Every labelled pair (chosen, rejected) of independent draws, weighted by its probability."""
    policy_N = np.exp(logps_N)
    N = len(policy_N)
    chosen, rejected = np.nonzero(~np.eye(N, dtype=bool))
    weight = policy_N[chosen] * policy_N[rejected] * probs_NN[chosen, rejected]
    pairs = np.stack([chosen, rejected], axis=1)
    return _data(
        np.arange(N),
        win_rates(probs_NN, policy_N),
        pairs_M2=pairs,
        pair_prob_M=probs_NN[chosen, rejected],
        weight_M=weight,
    )


def sampled_rows(
    probs_NN: Array, logps_N: Array, num_prompts: int, rng: np.random.Generator, K: int = 5, with_self: bool = False
) -> dict[str, Tensor]:
    """`num_prompts` times K candidates with the win rates of their K x K matrix, the diagonal left out by default."""
    drawn_MK = rng.choice(len(logps_N), size=(num_prompts, K), p=np.exp(logps_N))
    probs_MKK = probs_NN[drawn_MK[:, :, None], drawn_MK[:, None, :]]
    total_MK = probs_MKK.sum(axis=2)
    rates_MK = total_MK / K if with_self else (total_MK - 0.5) / (K - 1)
    return _data(drawn_MK.reshape(-1), rates_MK.reshape(-1))


def sampled_pairs(probs_NN: Array, logps_N: Array, num_pairs: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Independent pairs, each labelled by one draw from the oracle."""
    drawn_M2 = rng.choice(len(logps_N), size=(num_pairs, 2), p=np.exp(logps_N))
    rows_M2 = np.arange(2 * num_pairs).reshape(num_pairs, 2)
    prob_M = probs_NN[drawn_M2[:, 0], drawn_M2[:, 1]]
    first_wins_M = rng.random(num_pairs) < prob_M
    pairs_M2 = np.where(first_wins_M[:, None], rows_M2, rows_M2[:, ::-1])
    return _data(
        drawn_M2.reshape(-1),
        np.full(2 * num_pairs, 0.5),
        pairs_M2=pairs_M2,
        pair_prob_M=np.where(first_wins_M, prob_M, 1 - prob_M),
        weight_M=np.ones(num_pairs),
    )


def sampled_rounds(
    probs_NN: Array, start_N: Array, eta: float, num_rounds: int, num_prompts: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Plays rounds of SPPO, each fitted to fresh samples.

    Returns:
        duality gap of the average policy, sampled and with exact updates.
    """
    logps_N = start_N
    sum_N = np.zeros_like(start_N)
    for _ in range(num_rounds):
        sum_N += np.exp(logps_N)
        data = sampled_rows(probs_NN, logps_N, num_prompts, rng)
        logps_N = fit(
            objectives.SPPO(eta), data, {"previous": logps_N}, max_gradient=1e-6
        )  # far below the sampling noise
    exact = np.exp(tabular.play(tabular.SPPO(eta), probs_NN, start_N, start_N, num_rounds - 1)).mean(axis=0)
    return float(duality_gap(probs_NN, sum_N / num_rounds)), float(duality_gap(probs_NN, exact))


def _data(response_R: NDArray[np.int64], win_rate_R: Array, **given: NDArray[Any]) -> dict[str, Tensor]:
    """Fills in rows of weight 1 and no pairs where nothing else is given."""
    fields: dict[str, NDArray[Any]] = {
        "response_R": response_R,
        "win_rate_R": win_rate_R,
        "weight_R": np.ones(len(response_R)),
        "pairs_M2": np.zeros((0, 2), dtype=np.int64),
        "pair_prob_M": np.zeros(0),
        "weight_M": np.zeros(0),
        **given,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in fields.items()}
