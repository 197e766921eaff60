"""Callbacks that only watch: without all of them the weights after each round are bit-identical."""

from sppo_lightning.callbacks.evaluation import HeldOutEvaluation
from sppo_lightning.callbacks.model_card import ModelCard
from sppo_lightning.callbacks.progress import RoundProgress
from sppo_lightning.callbacks.round_metrics import RoundMetrics
from sppo_lightning.callbacks.sample_table import SampleTable
from sppo_lightning.callbacks.summary import RunSummary

__all__ = ["HeldOutEvaluation", "ModelCard", "RoundMetrics", "RoundProgress", "RunSummary", "SampleTable"]
