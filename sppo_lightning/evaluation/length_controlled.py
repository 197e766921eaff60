"""AlpacaEval 2's length-controlled win rate: what a logistic model predicts where both answers are equally long.

Dubois, Galambosi, Liang and Hashimoto, Length-Controlled AlpacaEval (arXiv 2404.04475). For instruction x

    P(model beats baseline | x) = sigmoid(theta + phi tanh((len_baseline - len_model) / sd) + psi difficulty(x)),

fitted with an L1 penalty whose strength is chosen by 5-fold cross-validation; the win rate is the mean over x without
the length's term. The published numbers add AlpacaEval's annotations of two gamed baselines (GPT-4 told to be brief and
to be verbose, against itself) with weight 0.1 each and without theta, which holds phi and psi near the values they have
for two equally good models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from sppo_lightning.errors import DataError
from sppo_lightning.io.benchmarks_annotations import Annotation, GamedAnnotation

Array = NDArray[np.float64]

_GAMED_WEIGHT = 0.2 / 2  # lambda = 0.2, shared by the two gamed baselines
_STRENGTHS = np.logspace(-4, 4, 10)  # C, the inverse of the penalty
_FOLDS = 5
_EPSILON = 1e-15
_WIDEST_ERROR = 0.05  # of a win rate, up to which a strength of exactly 0 is taken at its word
_COLLINEAR = 1e-6  # share of theta's column that the other terms must leave


@dataclass(frozen=True, kw_only=True)
class LengthControlled:
    """A length-controlled win rate and how it came about.

    Attributes:
        win_rate: in [0, 1]. NaN where the annotations do not tell the model's strength from the other terms: all its
            answers are longer by far, or the penalty removed the strength and a tie is not certain to within 5 points.
        standard_error: of the mean of the predictions over instructions, as the leaderboard's; it does not hold the
            uncertainty of the coefficients. NaN without difficulties, where all predictions are one, and without a
            win rate.
        theta: the model's own strength, in log-odds.
        phi: of tanh(standardised length of the baseline's minus the model's answer): negative where the judge likes
            length.
        psi: of the instruction's difficulty; 0 without difficulties.
        caveat: what keeps the number from being compared with published ones; "" where nothing does.
    """

    win_rate: float
    standard_error: float
    theta: float
    phi: float
    psi: float
    caveat: str


def length_controlled_win_rate(
    annotations: Sequence[Annotation],
    difficulties: Mapping[int, float] | None = None,
    gamed: Sequence[GamedAnnotation] = (),
) -> LengthControlled:
    """Fits the model and predicts.

    Args:
        annotations: of one model against one baseline, in the benchmark's order.
        difficulties: position of an instruction -> its difficulty. None: the model has no such term.
        gamed: annotations of the gamed baselines. Empty: the fit is not held by them.

    Raises:
        DataError: an instruction has no difficulty, gamed annotations come without difficulties, or no annotation has
            a preference.
    """
    if gamed and difficulties is None:
        raise DataError("annotations of gamed baselines need the instructions' difficulties beside them")
    difficulty = difficulty_of(len(annotations), difficulties)
    difference = np.array([row.baseline_length - row.model_length for row in annotations], dtype=np.float64)
    deviation = difference.std(ddof=1) if len(difference) > 1 else 0.0
    length = np.tanh(difference / deviation) if deviation > 0 else np.zeros(len(difference))
    preference = np.array([math.nan if row.preference is None else row.preference - 1 for row in annotations])
    if np.isnan(preference).all():
        raise DataError(f"none of the {len(annotations)} annotations has a preference; did the judge fail?")

    # The gamed rows come first, as in the published fit: a row's number decides its fold.
    features = np.concatenate(
        [
            np.array(
                [[not row.gamed, np.tanh(row.length_difference), row.difficulty] for row in gamed], dtype=np.float64
            ).reshape(-1, 3),
            np.column_stack([np.ones(len(annotations)), length, difficulty]),
        ]
    )
    targets = np.concatenate(
        [[math.nan if row.preference is None else row.preference for row in gamed], preference]
    ).astype(np.float64)
    weights = np.concatenate([[_GAMED_WEIGHT if row.gamed else 1.0 for row in gamed], np.ones(len(annotations))])
    judged = ~np.isnan(targets)
    theta, phi, psi = _cross_validated_fit(features[judged], targets[judged], weights[judged])

    predictions = expit(theta + psi * difficulty)  # of every instruction, those without a preference included
    n = len(predictions)
    estimable = _is_estimable(features[judged], weights[judged], theta, phi, psi)
    has_error = estimable and n > 1 and difficulties is not None
    return LengthControlled(
        win_rate=float(predictions.mean()) if estimable else math.nan,
        standard_error=float(predictions.std(ddof=1) / math.sqrt(n)) if has_error else math.nan,
        theta=float(theta),
        phi=float(phi),
        psi=float(psi),
        caveat=_caveat(len(annotations), difficulties, bool(gamed)),
    )


def difficulty_of(num_instructions: int, difficulties: Mapping[int, float] | None) -> Array:
    """The difficulty of each instruction, by position; zeros where none are given.

    Raises:
        DataError: an instruction has none.
    """
    if difficulties is None:
        return np.zeros(num_instructions)
    missing = [position for position in range(num_instructions) if position not in difficulties]
    if missing:
        raise DataError(
            f"annotation number {missing[0] + 1} of {num_instructions} has no instruction difficulty; there are "
            f"{len(difficulties)}. The annotations must be those of the benchmark's instructions in its order"
        )
    return np.array([difficulties[position] for position in range(num_instructions)])


def _caveat(num_annotations: int, difficulties: Mapping[int, float] | None, has_gamed: bool) -> str:
    if difficulties is None:
        return (
            "fitted without instruction difficulties and without the gamed baselines: compare it only with numbers "
            "fitted the same way, not with AlpacaEval's leaderboard"
        )
    if not has_gamed:
        return (
            "fitted without the gamed baselines, which the leaderboard's fit is regularised by: not comparable with "
            "AlpacaEval's leaderboard"
        )
    if num_annotations != len(difficulties):
        return (
            f"fitted on {num_annotations} of {len(difficulties)} instructions: not comparable with AlpacaEval's "
            "leaderboard, and right only if they are the first ones, since difficulties are found by position"
        )
    return ""


def _is_estimable(features_ND: Array, weights_N: Array, theta: float, phi: float, psi: float) -> bool:
    """Whether the annotations tell theta from the other terms.

    Not where it is a combination of them: any split of the two then fits as well. Nor where the penalty removed it
    (theta = 0) and the information on theta that phi and psi leave does not confine the win rate to 1/2.
    """
    if _left(features_ND, weights_N) < _COLLINEAR * float(weights_N @ features_ND[:, 0] ** 2):
        return False
    if theta != 0:
        return True
    probs_N = expit(features_ND[:, 1:] @ np.array([phi, psi]))
    information = _left(features_ND, weights_N * probs_N * (1 - probs_N))
    return information > 0 and 0.25 / math.sqrt(information) <= _WIDEST_ERROR  # sigmoid'(0) = 1/4


def _left(features_ND: Array, weights_N: Array) -> float:
    """The weighted square of theta's column that the others do not explain."""
    scaled_ND = features_ND * np.sqrt(weights_N)[:, None]
    strength_N, others_ND = scaled_ND[:, 0], scaled_ND[:, 1:]
    left_N = strength_N - others_ND @ np.linalg.lstsq(others_ND, strength_N, rcond=None)[0]
    return float(left_N @ left_N)


def _cross_validated_fit(features_ND: Array, targets_N: Array, weights_N: Array) -> Array:
    """The coefficients at the strength with the lowest mean held-out log-loss."""
    folds = np.arange(len(targets_N)) % _FOLDS
    if len(targets_N) < _FOLDS:
        return _fit(features_ND, targets_N, weights_N, 1.0)
    losses = np.zeros(len(_STRENGTHS))
    for fold in range(_FOLDS):
        train, held_out = folds != fold, folds == fold
        for i, strength in enumerate(_STRENGTHS):
            coefficients = _fit(features_ND[train], targets_N[train], weights_N[train], strength)
            predicted = np.clip(expit(features_ND[held_out] @ coefficients), _EPSILON, 1 - _EPSILON)
            target = targets_N[held_out]
            log_loss = -(target * np.log(predicted) + (1 - target) * np.log(1 - predicted))
            losses[i] += float(np.mean(weights_N[held_out] * log_loss))
    return _fit(features_ND, targets_N, weights_N, _STRENGTHS[losses.argmin()])


def _fit(features_ND: Array, targets_N: Array, weights_N: Array, strength: float) -> Array:
    """Minimises |w|_1 + C sum_n s_n CE(p_n, sigmoid(w x_n)).

    With w = u - v and u, v >= 0 the penalty is the smooth sum of u and v, so a bounded quasi-Newton method solves it.
    """
    D = features_ND.shape[1]
    scale = strength * weights_N.sum()

    def objective(split: Array) -> tuple[float, Array]:
        logits = features_ND @ (split[:D] - split[D:])
        cross_entropy = np.logaddexp(0, logits) - targets_N * logits
        gradient = features_ND.T @ (weights_N * (expit(logits) - targets_N)) * (strength / scale)
        value = float(weights_N @ cross_entropy) * (strength / scale) + split.sum() / scale
        return value, np.concatenate([gradient, -gradient]) + 1 / scale

    solution = minimize(
        objective,
        np.zeros(2 * D),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * (2 * D),
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 2000},
    )
    return solution.x[:D] - solution.x[D:]
