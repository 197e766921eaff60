"""From a preference matrix to win rates and scores of single responses, estimated from every judged comparison."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sppo_lightning.types import PreferenceMatrix


def win_rates(matrix: PreferenceMatrix, self_comparison: bool = False) -> Tensor:
    """P(y > opponent): the mean of each row over the judged opponents.

    Self-comparison: SPPO's official data average over all K columns, the response itself (1/2) among them. That shrinks
    every P - 1/2 by exactly (K-1)/K, a smaller effective step; the unbiased estimate leaves it out.

    Args:
        matrix: [B, K, J] preferences.
        self_comparison: count the diagonal of a self-play matrix.

    Returns:
        [B, K] in [0, 1]; NaN where a response was not judged against anyone.
    """
    return _mean_over_judged(matrix.probs_BKJ, matrix, self_comparison)


def mean_scores(matrix: PreferenceMatrix, self_comparison: bool = False) -> Tensor | None:
    """How far a response's score lies above those it was judged against, on average (GPO, arXiv 2410.02197).

    Args:
        matrix: [B, K, K] self-play preferences.
        self_comparison: count the diagonal, whose difference is 0; see `win_rates`.

    Returns:
        [B, K] mean of s(y) - s(y'); NaN where a response was not judged. None where the oracle gives no scores.
    """
    assert matrix.self_play, "the scores of other opponents are not known"
    if matrix.scores_BK is None:
        return None
    margins_BKK = matrix.scores_BK[:, :, None] - matrix.scores_BK[:, None, :]
    return _mean_over_judged(margins_BKK, matrix, self_comparison)


def _mean_over_judged(values_BKJ: Tensor, matrix: PreferenceMatrix, self_comparison: bool) -> Tensor:
    assert matrix.judged_BKJ is not None
    counted = matrix.judged_BKJ
    if matrix.self_play and not self_comparison:
        counted = counted & ~torch.eye(counted.shape[1], dtype=torch.bool)
    total_BK = torch.where(counted, values_BKJ, 0).sum(-1)
    return total_BK / counted.sum(-1)  # 0/0 is NaN: not judged


def mixture_win_rates(win_rates_BK: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Win rates against a mixture: the weighted mean over those opponents a response was judged against."""
    stacked_OBK = torch.stack(list(win_rates_BK))
    weight_OBK = torch.tensor(weights, dtype=stacked_OBK.dtype)[:, None, None] * ~stacked_OBK.isnan()
    return (stacked_OBK.nan_to_num(0.0) * weight_OBK).sum(0) / weight_OBK.sum(0)
