"""Callbacks that only watch: without all of them the weights after each round are bit-identical."""

from sppo_lightning.callbacks.evaluation import HeldOutEvaluation
from sppo_lightning.callbacks.gaps import Gaps
from sppo_lightning.callbacks.insight import JudgeInsight
from sppo_lightning.callbacks.model_card import ModelCard
from sppo_lightning.callbacks.progress import RoundProgress
from sppo_lightning.callbacks.report import RunReport
from sppo_lightning.callbacks.round_metrics import RoundMetrics
from sppo_lightning.callbacks.sample_table import SampleTable
from sppo_lightning.callbacks.second_judge import SecondJudge
from sppo_lightning.callbacks.summary import RunSummary
from sppo_lightning.callbacks.text_signs import TextSigns
from sppo_lightning.callbacks.token_ratios import TokenRatios
from sppo_lightning.callbacks.weight_average import WeightAverage

__all__ = [
    "Gaps",
    "HeldOutEvaluation",
    "JudgeInsight",
    "ModelCard",
    "RoundMetrics",
    "RoundProgress",
    "RunReport",
    "RunSummary",
    "SampleTable",
    "SecondJudge",
    "TextSigns",
    "TokenRatios",
    "WeightAverage",
]
