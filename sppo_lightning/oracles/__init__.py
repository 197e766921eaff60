"""Preference oracles: one file per judge."""

from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.composed import ComposedOracle
from sppo_lightning.oracles.constrained import Constrained
from sppo_lightning.oracles.constraint import Constraint, Forbidden
from sppo_lightning.oracles.ensemble import Ensemble
from sppo_lightning.oracles.function import Function, MatrixFunction
from sppo_lightning.oracles.general_preference import GeneralPreference
from sppo_lightning.oracles.human import Human
from sppo_lightning.oracles.intransitive import Intransitive
from sppo_lightning.oracles.llm_blender import LLMBlender
from sppo_lightning.oracles.llm_judge import LLMJudge
from sppo_lightning.oracles.noisy import Noisy
from sppo_lightning.oracles.pairrm import PairRM
from sppo_lightning.oracles.pairwise import Pair, PairwiseOracle
from sppo_lightning.oracles.reward_model import RewardModel
from sppo_lightning.oracles.score_to_preference import Scorer, ScoreToPreference, TargetLength
from sppo_lightning.oracles.shuffled import Shuffled
from sppo_lightning.oracles.style_game import StyleGame
from sppo_lightning.oracles.verifier import Verifier

__all__ = [
    "ComposedOracle",
    "Constrained",
    "Constraint",
    "Ensemble",
    "Forbidden",
    "Function",
    "GeneralPreference",
    "Human",
    "Intransitive",
    "LLMBlender",
    "LLMJudge",
    "MatrixFunction",
    "Noisy",
    "Pair",
    "PairRM",
    "PairwiseOracle",
    "PreferenceOracle",
    "RewardModel",
    "ScoreToPreference",
    "Scorer",
    "Shuffled",
    "StyleGame",
    "TargetLength",
    "Verifier",
]
