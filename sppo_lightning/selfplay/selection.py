"""From preferences to targets: win rates against the opponent mixture first, then what is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sppo_lightning.selfplay.pairing import Pairing
from sppo_lightning.selfplay.players import Truncated
from sppo_lightning.selfplay.win_rates import mean_scores, mixture_win_rates, win_rates
from sppo_lightning.types import PreferenceMatrix, Targets


def choose_targets(
    matrices: Mapping[int, PreferenceMatrix],
    finished: Mapping[int, Sequence[Tensor]],
    weights: Mapping[int, float],
    *,
    pairing: Pairing,
    truncated: Truncated,
    self_comparison: bool,
) -> tuple[list[Targets], Tensor | None]:
    """Decides for every prompt.

    Args:
        matrices: lag -> preferences of pi_t's K candidates over the responses of pi_{t-lag}; lag 0 is self-play.
        finished: lag -> [B][K] or [B][J], False where that policy's response was truncated; K may differ.
        weights: lag -> its weight in the opponent mixture.
        pairing: chooses rows and pairs.
        truncated: what becomes of truncated responses, see `RoundPlayers`.
        self_comparison: see `win_rates`.

    Returns:
        B targets, and [B, K] the scores of the candidates, see `mean_scores`.
    """
    if truncated == "drop":
        matrices = {lag: _without(matrix, finished[0], finished[lag]) for lag, matrix in matrices.items()}
    rates = [win_rates(matrices[lag], self_comparison) for lag in weights]
    win_rate_BK = mixture_win_rates(rates, list(weights.values()))
    own = matrices[0]  # every opponent mixture gives pi_t a weight
    assert own.judged_BKJ is not None
    targets = []
    for b, finished_K in enumerate(finished[0]):
        K = len(finished_K)
        win_rate_K = win_rate_BK[b, :K]
        trainable_K = ~win_rate_K.isnan() & (finished_K if truncated != "keep" else torch.ones_like(finished_K))
        targets.append(pairing(own.probs_BKJ[b, :K, :K], own.judged_BKJ[b, :K, :K], win_rate_K, trainable_K))
    return targets, mean_scores(own, self_comparison)


def _without(matrix: PreferenceMatrix, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> PreferenceMatrix:
    """The matrix with only these rows and columns judged."""
    assert matrix.judged_BKJ is not None
    rows_BK, columns_BJ = pad_sequence(list(rows), batch_first=True), pad_sequence(list(columns), batch_first=True)
    judged_BKJ = matrix.judged_BKJ & rows_BK[:, :, None] & columns_BJ[:, None, :]
    return replace(matrix, judged_BKJ=judged_BKJ)
