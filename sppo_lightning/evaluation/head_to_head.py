"""All against all: who beats whom on the same prompts, how sure that is, and what kind of game it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from sppo_lightning.errors import ConfigError
from sppo_lightning.evaluation.contestants import Contestant
from sppo_lightning.evaluation.payoff import Payoff, judge_payoff
from sppo_lightning.evaluation.verdicts import VerdictBank
from sppo_lightning.functional.elo import elo_ratings
from sppo_lightning.functional.game_diagnostics import curl_share, num_cyclic_triads
from sppo_lightning.functional.games import Array, Equilibrium, von_neumann_winner
from sppo_lightning.functional.intervals import win_rate_interval
from sppo_lightning.functional.resampling import expanded_percentiles, prompt_weights, resampled_means

_NO_WIDTH = 1e-9  # above the rounding of means of equal numbers


@dataclass(frozen=True, kw_only=True)
class HeadToHead:
    """The payoff matrix of N players over B prompts, and what follows from it.

    Attributes:
        names: the players.
        win_rates_BNN: P(row beats column) at each prompt, 1/2 on the diagonal; NaN where it was not judged.
        win_rates_NN: mean over prompts of P(row beats column), 1/2 on the diagonal.
        intervals_NN2: 95 % bootstrap intervals, prompts being the clusters. A clean sweep (all prompts alike) leaves
            the bootstrap without width; there Wilson's interval stands.
        elo_N: ratings, the first player's being 1000; they cannot express a cycle.
        elo_intervals_N2: 95 % bootstrap intervals of the ratings.
        equilibrium: the mixture of the players that none of them beats.
        cyclic_share: share of the triples of players in which each beats the next; 0 for fewer than three.
        curl: share of the squared log-odds that no ratings explain, in [0, 1].
        length_controlled_NN: win rates at equal length by our own logistic model (`functional.length_control`); not
            AlpacaEval's.
        length_slope: what that model gives the judge for length: nats of log-odds for each factor e of length.
    """

    names: tuple[str, ...]
    win_rates_BNN: Array
    win_rates_NN: Array
    intervals_NN2: Array
    elo_N: Array
    elo_intervals_N2: Array
    equilibrium: Equilibrium
    cyclic_share: float
    curl: float
    length_controlled_NN: Array
    length_slope: float

    @property
    def num_prompts(self) -> int:
        """B."""
        return len(self.win_rates_BNN)

    def as_dict(self) -> dict[str, Any]:
        """All but the single prompts, for a json file."""
        return {
            "names": list(self.names),
            "num_prompts": self.num_prompts,
            "win_rates": self.win_rates_NN.tolist(),
            "win_rate_intervals": self.intervals_NN2.tolist(),
            "elo": self.elo_N.tolist(),
            "elo_intervals": self.elo_intervals_N2.tolist(),
            "equilibrium": self.equilibrium.policy_N.tolist(),
            "equilibrium_unique": self.equilibrium.unique,
            "cyclic_share": self.cyclic_share,
            "curl": self.curl,
            "length_controlled_win_rates": self.length_controlled_NN.tolist(),
            "length_slope": self.length_slope,
        }


def head_to_head(contestants: Sequence[Contestant], verdicts: VerdictBank, num_samples: int) -> HeadToHead:
    """Plays everybody against everybody.

    Every pair of policies is judged once; a mixture's win rates are the weighted means of its members', which is what
    drawing a member for each response gives on average, without the noise of the draw or any further judging.

    Args:
        contestants: at least two, with different names.
        verdicts: the judge and its prompts, at least two.
        num_samples: responses of each policy to each prompt.

    Raises:
        ConfigError: fewer than two contestants or prompts, a name twice, or a pair without any verdict.
        EngineError, OracleError: generation or judging failed; what is whole is kept.
    """
    members = list(dict.fromkeys(member for contestant in contestants for member, _ in contestant.members))
    used = [{members.index(member) for member, _ in contestant.members} for contestant in contestants]
    pairs = {tuple(sorted((i, j))) for ours, theirs in combinations(used, 2) for i in ours for j in theirs if i != j}
    payoff = judge_payoff(members, verdicts, num_samples, sorted(pairs))
    return head_to_head_of(contestants, payoff)


def head_to_head_of(contestants: Sequence[Contestant], payoff: Payoff) -> HeadToHead:
    """The same from a payoff that is judged already.

    Args:
        contestants: at least two, with different names, made of the payoff's members.
        payoff: of all pairs of members that meet.

    Raises:
        ConfigError: see `head_to_head`.
    """
    names = tuple(contestant.name for contestant in contestants)
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"a match needs at least two contestants with different names, got {', '.join(names)}")
    if len(payoff.win_rates_BMM) < 2:
        raise ConfigError(f"a match needs at least two prompts, got {len(payoff.win_rates_BMM)}")
    weights_NM = np.zeros((len(names), len(payoff.members)))
    for row, contestant in enumerate(contestants):
        for member, weight in contestant.members:
            weights_NM[row, payoff.members.index(member)] += weight
    win_rates_BNN = _mixed(payoff.win_rates_BMM, weights_NM)
    return _summary(names, win_rates_BNN, _mixed(payoff.length_controlled_MM, weights_NM), payoff.length_slope)


def _mixed(win_rates_MM: Array, weights_NM: Array) -> Array:
    """[..., N, N] from [..., M, M]: the win rate is linear in both players' mixtures; everybody ties with himself."""
    present = np.nan_to_num(win_rates_MM, nan=0.0)
    known = np.isfinite(win_rates_MM).astype(np.float64)
    total = weights_NM @ present @ weights_NM.T
    # A prompt at which one member's pair was not judged counts by the pairs that were.
    share = weights_NM @ known @ weights_NM.T
    mixed = np.divide(total, share, out=np.full_like(total, np.nan), where=share > 0)
    mixed[..., np.arange(len(weights_NM)), np.arange(len(weights_NM))] = 0.5
    return mixed


def _summary(names: tuple[str, ...], win_rates_BNN: Array, controlled_NN: Array, slope: float) -> HeadToHead:
    num_prompts, triads = len(win_rates_BNN), comb(len(names), 3)
    win_rates_NN, resampled_RNN = payoff_bootstrap(win_rates_BNN)
    low_NN, high_NN = expanded_percentiles(resampled_RNN, num_prompts)
    for i, j in zip(*np.nonzero(np.ptp(resampled_RNN, axis=0) < _NO_WIDTH), strict=True):
        if i != j:
            values_B = win_rates_BNN[:, i, j]
            wilson = win_rate_interval([[value] for value in values_B[np.isfinite(values_B)]])
            low_NN[i, j], high_NN[i, j] = wilson.low, wilson.high
    elo_ends = expanded_percentiles(elo_ratings(resampled_RNN, num_prompts), num_prompts)
    return HeadToHead(
        names=names,
        win_rates_BNN=win_rates_BNN,
        win_rates_NN=win_rates_NN,
        intervals_NN2=np.stack([low_NN, high_NN], axis=-1),
        elo_N=elo_ratings(win_rates_NN, num_prompts),
        elo_intervals_N2=np.stack(elo_ends, axis=-1),
        equilibrium=von_neumann_winner(win_rates_NN),
        cyclic_share=num_cyclic_triads(win_rates_NN) / triads if triads else 0.0,
        curl=curl_share(win_rates_NN),
        length_controlled_NN=controlled_NN,
        length_slope=slope,
    )


def payoff_bootstrap(win_rates_BNN: Array, num_resamples: int = 1000, seed: int = 0) -> tuple[Array, Array]:
    """A payoff matrix and its resamples over prompts, every cell of a resample seeing the same prompts.

    Args:
        win_rates_BNN: [B, N, N] P(row beats column) at each prompt; NaN where it was not judged.
        num_resamples: R.
        seed: the same seed gives the same resamples.

    Returns:
        [N, N] means over prompts, and [R, N, N] means over each resample.
    """
    means_NN = np.nanmean(win_rates_BNN, axis=0)
    resampled_RNN = resampled_means(win_rates_BNN, prompt_weights(len(win_rates_BNN), num_resamples, seed))
    # A resample without any judged prompt of a pair says nothing about it.
    return means_NN, np.where(np.isnan(resampled_RNN), means_NN, resampled_RNN)
