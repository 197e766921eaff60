"""What a played round says about the judge: cycles, ties, and whether it pays length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from sppo_lightning.functional.game_diagnostics import curl_share, num_cyclic_triads
from sppo_lightning.functional.games import Array
from sppo_lightning.functional.intervals import bootstrap_interval
from sppo_lightning.io.carriers import preferences_from
from sppo_lightning.selfplay.store import RoundFolder
from sppo_lightning.types import PreferenceMatrix

_TIE = 1e-6
_RESAMPLES = 500


def judge_insight(folder: RoundFolder, oracle: str) -> dict[str, float]:
    """Diagnostics of the oracle on this round's candidates, and how their lengths go with their win rates.

    Args:
        folder: the round, its targets written.
        oracle: name of the oracle whose preferences are read.

    Returns:
        metric name -> value; a metric that the round cannot tell is left out: cycles need three responses that are all
        judged against each other, lengths need win rates that differ.
            round/cyclic_share: of all triples of responses, those that the judge's majorities put in a circle.
            round/curl_share: of its squared log-odds, what no score explains (HodgeRank); 0 for Bradley-Terry.
            round/tie_share: of all pairs of different responses, those with P = 1/2.
            round/winner_tokens, round/loser_tokens: mean length of the best and the worst response to a prompt.
            round/length_correlation: of length with win rate among the responses to one prompt, with a 95 % interval
            over prompts.
    """
    num_chunks = folder.settings["num_chunks"]
    matrix = preferences_from(folder.read_stage(f"{folder.verdicts(oracle)}/self", num_chunks), self_play=True)
    candidates = folder.read_stage("candidates", num_chunks).select(["prompt_id", "candidate", "token_ids"]).to_pylist()
    tokens = {(row["prompt_id"], row["candidate"]): row["token_ids"] for row in candidates}
    by_prompt: dict[str, list[tuple[float, int]]] = {}
    for row in folder.read_table("targets").to_pylist():
        if not math.isnan(row["win_rate"]):
            length = len(tokens[row["prompt_id"], row["candidate"]])
            by_prompt.setdefault(row["prompt_id"], []).append((row["win_rate"], length))
    return _cycles(matrix) | _ties(matrix, tokens) | _lengths(list(by_prompt.values()))


def _cycles(matrix: PreferenceMatrix) -> dict[str, float]:
    games = [game for game in _judged_games(matrix) if len(game) >= 3]
    if not games:
        return {}
    triads = sum(math.comb(len(game), 3) for game in games)
    return {
        "round/cyclic_share": sum(num_cyclic_triads(game) for game in games) / triads,
        "round/curl_share": float(np.mean([curl_share(game) for game in games])),
    }


def _judged_games(matrix: PreferenceMatrix) -> list[Array]:
    """The games of those prompts whose responses were all judged against each other."""
    assert matrix.judged_BKJ is not None
    games = []
    for probs_KK, judged_KK in zip(matrix.probs_BKJ.double(), matrix.judged_BKJ, strict=True):
        present = judged_KK.any(1)  # a prompt may have fewer responses than the widest one
        if bool((judged_KK | torch.eye(len(judged_KK), dtype=torch.bool))[present][:, present].all()):
            games.append(probs_KK[present][:, present].numpy())
    return games


def _ties(matrix: PreferenceMatrix, tokens: dict[tuple[str, int], Sequence[int]]) -> dict[str, float]:
    assert matrix.judged_BKJ is not None
    ties = pairs = 0
    for prompt_id, probs_KK, judged_KK in zip(matrix.prompt_ids, matrix.probs_BKJ, matrix.judged_BKJ, strict=True):
        for i, j in _upper_pairs(judged_KK):
            # A response is a tie with its own copy whatever the judge; duplicates are counted elsewhere.
            if tokens[prompt_id, i] != tokens[prompt_id, j]:
                pairs += 1
                ties += abs(float(probs_KK[i, j]) - 0.5) < _TIE
    return {"round/tie_share": ties / pairs} if pairs else {}


def _upper_pairs(judged_KK: Tensor) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in judged_KK.triu(1).nonzero()]


def _lengths(responses_by_prompt: Sequence[Sequence[tuple[float, int]]]) -> dict[str, float]:
    differing = [group for group in responses_by_prompt if max(group)[0] > min(group)[0]]
    if not differing:
        return {}
    metrics = {
        "round/winner_tokens": float(np.mean([_tokens_at(max, group) for group in differing])),
        "round/loser_tokens": float(np.mean([_tokens_at(min, group) for group in differing])),
    }
    moments = []
    for group in differing:
        rates, lengths = (np.array(values) - np.mean(values) for values in zip(*group, strict=True))
        moments.append([rates @ lengths, rates @ rates, lengths @ lengths])
    # A resample may hold equal lengths only.
    if sum(moment[2] > 0 for moment in moments) > len(moments) / 2:
        interval = bootstrap_interval(moments, _correlation, num_resamples=_RESAMPLES)
        metrics["round/length_correlation"] = interval.estimate
        metrics["round/length_correlation_low"] = interval.low
        metrics["round/length_correlation_high"] = interval.high
    return metrics


def _tokens_at(end: Callable[[Iterable[float]], float], group: Sequence[tuple[float, int]]) -> float:
    """Mean length of the responses at the best or the worst win rate, which several may share."""
    rate = end(rate for rate, _ in group)
    return float(np.mean([length for each, length in group if each == rate]))


def _correlation(moments: Array) -> float:
    """Pearson's, within prompts: a prompt that calls for long answers must not count for their quality."""
    covariance, *variances = moments.reshape(-1, 3).sum(axis=0)
    return float(covariance / math.sqrt(variances[0] * variances[1])) if variances[1] > 0 else 0.0
