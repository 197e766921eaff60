"""Preference oracles: one file per judge."""

from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.pairwise import Pair, PairwiseOracle
from sppo_lightning.oracles.score_to_preference import Scorer, ScoreToPreference, TargetLength
from sppo_lightning.oracles.shuffled import Shuffled
from sppo_lightning.oracles.style_game import StyleGame
from sppo_lightning.oracles.verifier import Verifier

__all__ = [
    "Pair",
    "PairwiseOracle",
    "PreferenceOracle",
    "ScoreToPreference",
    "Scorer",
    "Shuffled",
    "StyleGame",
    "TargetLength",
    "Verifier",
]
