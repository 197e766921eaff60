"""With which weights a run's policies are mixed: equal ones, unless others are confirmed to be harder to exploit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sppo_lightning.evaluation.best_of_n import OpponentSamples, best_of_n
from sppo_lightning.evaluation.mixture import Mixture
from sppo_lightning.functional.games import Array, check_game, von_neumann_winner
from sppo_lightning.functional.intervals import mean_interval

_LEAST_PROMPTS = 4
_ALL_THE_WEIGHT = 1 - 1e-6


def choose_mixture(
    sources: Sequence[str], win_rates_BMM: Array, against: OpponentSamples, newest: OpponentSamples | None = None
) -> Mixture:
    """Uniform weights, or those of the equilibrium of the members' payoff matrix where `gap/best_of_n` confirms them.

    The equilibrium among a few policies says nothing about replies that none of them is: it puts all weight on a last
    policy that beats the earlier ones, however open that is. So it has to prove itself: fitted on one half of the
    prompts, it must be less exploitable than uniform weights on the other half, and the other way round, by more than
    the 95 % interval of the paired differences.

    Args:
        sources: the M members, folders or hub ids.
        win_rates_BMM: P(row member beats column member) at each prompt; NaN where it was not judged.
        against: candidate replies judged against responses of all members, in the order of `sources`.
        newest: the same replies judged against more responses of the last member. Used where it has all the weight: a
            reply chosen on fewer responses is a worse one, and the policy would look harder to exploit.
    """
    uniform = Mixture.uniform(sources)
    B, M = len(win_rates_BMM), len(sources)
    if M == 1:
        return Mixture(members=uniform.members, weighting="uniform", reason="there is only one policy")
    if B < _LEAST_PROMPTS:
        reason = f"{B} held-out prompts are too few to tell other weights from uniform ones"
        return Mixture(members=uniform.members, weighting="uniform", reason=reason)
    half_B = np.arange(B) % 2
    changes = np.concatenate(
        [
            _payoff_gap(against, newest, _payoff_weights(win_rates_BMM[half_B != side]), half_B == side)
            - _gap_at_prompts(against.at(half_B == side), np.full(M, 1 / M))
            for side in (0, 1)
        ]
    )
    change = mean_interval(changes[np.isfinite(changes)])
    measured = f"change gap/best_of_n by {change} on held-out prompts that they were not fitted on"
    if change.high < 0:
        weights = _payoff_weights(win_rates_BMM)
        members = dict(zip(sources, (float(weight) for weight in weights), strict=True))
        return Mixture(members=members, weighting="payoff", reason=f"the payoff equilibrium's weights {measured}")
    reason = f"the payoff equilibrium's weights are not confirmed: they {measured}"
    return Mixture(members=uniform.members, weighting="uniform", reason=reason)


def _payoff_weights(win_rates_BMM: Array) -> Array:
    """[M] the equilibrium of the members' mean payoff; a pair without any verdict counts as even."""
    judged = np.isfinite(win_rates_BMM).sum(axis=0)
    total = np.nansum(win_rates_BMM, axis=0)
    payoff_MM = np.divide(total, judged, out=np.full_like(total, 0.5), where=judged > 0)
    return von_neumann_winner(check_game(payoff_MM, "payoff of the run's policies")).policy_N


def _payoff_gap(
    against: OpponentSamples, newest: OpponentSamples | None, weights_M: Array, prompts_B: np.ndarray
) -> Array:
    if newest is not None and weights_M[-1] > _ALL_THE_WEIGHT:
        return _gap_at_prompts(newest.at(prompts_B), np.ones(1))
    return _gap_at_prompts(against.at(prompts_B), weights_M)


def _gap_at_prompts(against: OpponentSamples, weights: Array) -> Array:
    """[B] the gap of a mixture at each prompt, before it is cut off at 0."""
    (best,) = best_of_n(against.reweighted(weights), [against.probs_BKJ.shape[1]])
    return 2 * (best.win_rate_B - 0.5)
