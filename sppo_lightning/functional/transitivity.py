"""Whether a judge's cycles are more than vote noise: an exact test against Bradley-Terry judges with as many votes.

Shape letters: J judges, B prompts, K responses, T triads in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.special import xlogy

from sppo_lightning.functional.games import Array
from sppo_lightning.functional.win_total_chain import Counts, WinTotalChain

# Sums of logarithms in another order differ by about this share.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class TransitivityTest:
    """What `transitivity_test` found about each of J judges.

    Attributes:
        cyclic_prompts_J: prompts with a cycle among their majorities.
        null_cyclic_prompts_SJ: [S, J] the same number of S samples of Bradley-Terry judges.
        p_value_J: the share of Bradley-Terry judges whose cycles are at least as strong; small where cycles are more
            than noise.
        varies_J: False where no sample differed in its cycles. The votes then say nothing, as with one vote on each
            pair: a tournament's win totals fix the number of its cyclic triads (Kendall and Babington Smith 1940).
    """

    cyclic_prompts_J: Counts
    null_cyclic_prompts_SJ: Counts
    p_value_J: Array
    varies_J: np.ndarray


def cycle_depths(wins_BKK: Counts, votes_BKK: Counts) -> Array:
    """How strongly the votes speak for each cycle of three: the log-likelihood ratio of its weakest majority to 1/2.

    With w of n votes for the majority this is w log(w / n) + (n - w) log((n - w) / n) + n log 2, in nats.

    Args:
        wins_BKK: [B, K, K] votes for row over column.
        votes_BKK: [B, K, K] decided votes of each pair.

    Returns:
        [B, T] nats, 0 for triads that are no cycle in that direction.
    """
    losses_BKK = votes_BKK - wins_BKK
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio_BKK = xlogy(wins_BKK, wins_BKK / votes_BKK) + xlogy(losses_BKK, losses_BKK / votes_BKK)
    strength_BKK = np.where(wins_BKK > losses_BKK, log_ratio_BKK + votes_BKK * np.log(2), 0.0)
    K = wins_BKK.shape[-1]
    triads = np.array(list(combinations(range(K), 3)), dtype=np.int64).reshape(-1, 3)
    i_T, j_T, k_T = np.concatenate([triads, triads[:, ::-1]]).T
    depth_BT = np.minimum(strength_BKK[:, i_T, j_T], strength_BKK[:, j_T, k_T])
    return np.minimum(depth_BT, strength_BKK[:, k_T, i_T])


def transitivity_test(
    wins_JBKK: Counts,
    votes_JBKK: Counts,
    *,
    num_samples: int = 999,
    seed: int = 0,
    progress: Callable[[range], Iterable[int]] = iter,
) -> TransitivityTest:
    """Tests the hypothesis that some scores s explain the votes: P(i beats j) = sigmoid(s_i - s_j), votes independent.

    The statistic is the sum over all cyclic triads of the squared `cycle_depths`: many shallow cycles, which noise
    makes, weigh little beside a deep one. It is compared with tables that have the same votes on each pair and the same
    win totals (see `win_total_chain`). The observed table takes a random place in a chain of tables (Besag and
    Clifford, Biometrika 76, 1989, the serial test), so that the p-value is exact however slowly the chain mixes:
    P(p <= a) <= a for every Bradley-Terry judge, with equality up to ties.

    The test knows nothing of ties: leave tied votes out. Given which votes are ties, the decided ones follow
    Bradley-Terry in Davidson's model (JASA 65, 1970).

    Args:
        wins_JBKK: [J, B, K, K] decided votes for row over column of J judges, each tested by itself; prompts with
            fewer than K responses have no votes in the last rows and columns.
        votes_JBKK: [J, B, K, K] decided votes of each pair.
        num_samples: S; with 999 the smallest p-value is .001.
        seed: of the chain.
        progress: wraps the range of samples, such as tqdm.

    Returns:
        One p-value a judge.
    """
    J, B, K = wins_JBKK.shape[:3]
    assert K >= 3, "two responses have no cycle"
    wins_BKK, votes_BKK = (counts.reshape(J * B, K, K).astype(np.int64) for counts in (wins_JBKK, votes_JBKK))

    def measure(wins_BKK: Counts) -> tuple[Array, Counts]:
        depth_JBT = cycle_depths(wins_BKK, votes_BKK).reshape(J, B, -1)
        return (depth_JBT**2).sum(axis=(1, 2)), (depth_JBT > 0).any(axis=2).sum(axis=1)

    observed_J, cyclic_J = measure(wins_BKK)
    margin_J = _ROUNDING * (1 + observed_J)
    at_least_J, varies_J = np.ones(J), np.zeros(J, dtype=bool)
    null_cyclic = np.zeros((num_samples, J), dtype=np.int64)
    rng = np.random.default_rng(seed)
    place = int(rng.integers(num_samples + 1))
    num_moves = K * (K - 1) // 2
    # The chain is reversible: the tables before the observed one are those of another chain that starts from it.
    parts = [WinTotalChain(wins_BKK, votes_BKK, rng).samples(n, num_moves) for n in (place, num_samples - place)]
    tables = (wins for part in parts for wins in part)
    for sample in progress(range(num_samples)):
        statistic_J, null_cyclic[sample] = measure(next(tables))
        at_least_J += statistic_J >= observed_J - margin_J
        varies_J |= np.abs(statistic_J - observed_J) > margin_J
    return TransitivityTest(
        cyclic_prompts_J=cyclic_J,
        null_cyclic_prompts_SJ=null_cyclic,
        p_value_J=at_least_J / (num_samples + 1),
        varies_J=varies_J,
    )
