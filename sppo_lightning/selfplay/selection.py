"""From preferences to targets: win rates against the opponent mixture first, then what is trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sppo_lightning.selfplay.opponents import PREVIOUS
from sppo_lightning.selfplay.pairing import Pairing
from sppo_lightning.selfplay.players import Truncated
from sppo_lightning.selfplay.win_rates import mean_scores, mixture_win_rates, win_rates
from sppo_lightning.types import PreferenceMatrix, Targets


def choose_targets(
    matrices: Mapping[str, PreferenceMatrix],
    finished: Sequence[Tensor],
    opponents_finished: Mapping[str, Sequence[Tensor]],
    weights: Mapping[str, float],
    *,
    pairing: Pairing,
    truncated: Truncated,
    self_comparison: bool,
) -> tuple[list[Targets], Tensor | None]:
    """Decides for every prompt.

    Args:
        matrices: opponent -> preferences of pi_t's K candidates over its responses; "previous" is self-play.
        finished: [B][K] False where a candidate was truncated; K may differ.
        opponents_finished: opponent -> [B][J] False where one of its responses was truncated.
        weights: opponent -> its weight in the mixture.
        pairing: chooses rows and pairs.
        truncated: what becomes of truncated responses, see `RoundPlayers`.
        self_comparison: see `win_rates`.

    Returns:
        B targets, and [B, K] the scores of the candidates, see `mean_scores`.
    """
    quarantined_B = _quarantined(matrices)
    if truncated == "drop":
        matrices = {name: _without(matrix, finished, opponents_finished[name]) for name, matrix in matrices.items()}
    rates = [win_rates(matrices[name], self_comparison) for name in weights]
    win_rate_BK = mixture_win_rates(rates, list(weights.values()))
    own = matrices.get(PREVIOUS)
    targets = []
    for b, finished_K in enumerate(finished):
        K = len(finished_K)
        win_rate_K = win_rate_BK[b, :K]
        trainable_K = ~win_rate_K.isnan() & (finished_K if truncated != "keep" else torch.ones_like(finished_K))
        trainable_K = trainable_K & ~quarantined_B[b]
        if own is None:
            targets.append(_by_win_rate(pairing, win_rate_K, trainable_K))
        else:
            assert own.judged_BKJ is not None
            targets.append(pairing(own.probs_BKJ[b, :K, :K], own.judged_BKJ[b, :K, :K], win_rate_K, trainable_K))
    return targets, None if own is None else mean_scores(own, self_comparison)


def _quarantined(matrices: Mapping[str, PreferenceMatrix]) -> Tensor:
    """Bool [B]: nothing counts as judged against one of the opponents; see `selfplay.quarantine`."""
    judged = [matrix.judged_BKJ for matrix in matrices.values() if matrix.judged_BKJ is not None]
    return torch.stack([~judged_BKJ.any(2).any(1) for judged_BKJ in judged]).any(0)


def _by_win_rate(pairing: Pairing, win_rate_K: Tensor, trainable_K: Tensor) -> Targets:
    """The targets where candidates were compared with other opponents only: the higher win rate is the winner.

    Nobody judged the pairs themselves, so their probability is NaN: not known.
    """
    wins_KK = (1 + (win_rate_K[:, None] - win_rate_K).sign()) / 2
    targets = pairing(wins_KK, torch.ones_like(wins_KK, dtype=torch.bool), win_rate_K, trainable_K)
    return replace(targets, pair_probs=(math.nan,) * len(targets.pairs))


def _without(matrix: PreferenceMatrix, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> PreferenceMatrix:
    """The matrix with only these rows and columns judged."""
    assert matrix.judged_BKJ is not None
    rows_BK, columns_BJ = pad_sequence(list(rows), batch_first=True), pad_sequence(list(columns), batch_first=True)
    judged_BKJ = matrix.judged_BKJ & rows_BK[:, :, None] & columns_BJ[:, None, :]
    return replace(matrix, judged_BKJ=judged_BKJ)
