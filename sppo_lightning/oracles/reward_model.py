"""Reward models from the hub as oracles: sequence classifiers, and ArmoRM with its gated objectives."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.judge_model import Dtype
from sppo_lightning.oracles.response_judge import ResponseJudge
from sppo_lightning.oracles.reward_networks import GATED_TENSORS, ClassifierRewards, GatedRewards


class RewardModel(ResponseJudge):
    """P(y > y') = sigmoid(scale * (r(y) - r(y'))) from a reward model's r: Bradley-Terry, so cycles are not expressed.

    Knows `...ForSequenceClassification`, such as Skywork-Reward or OpenAssistant's DeBERTa, and ArmoRM
    (arXiv 2406.12845), whose prompt decides how its objectives are weighed. The scores are r.

    Args:
        model: a Hugging Face folder or hub id. Only safetensors are read, and no code that comes with a model is run.
        scale: log-odds for one unit of reward. A reward model that was trained by Bradley-Terry has 1; ArmoRM's scores
            lie within some hundredths, so that it needs more, such as 100.
        head: which of the model's numbers is the reward: auto, its only one or ArmoRM's gated score; or the index of
            one of its objectives.
        max_tokens: a longer conversation loses the end of the response. Not set: 4096, or fewer if the model has fewer
            positions.
        batch_tokens: rows of a batch times its longest row; memory grows with it. Not set: 16384 on a GPU, 2048 on a
            CPU.
        dtype: precision; auto is bfloat16 on a GPU and float32 on a CPU.
        device: auto is the GPU if there is one.

    Raises:
        ConfigError: a value that cannot be.
    """

    def __init__(
        self,
        model: str,
        scale: float = 1.0,
        head: int | Literal["auto"] = "auto",
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
    ) -> None:
        super().__init__(model, max_tokens, batch_tokens, dtype, device)
        if not 0 < scale < float("inf"):
            raise ConfigError(f"RewardModel: scale must be positive and finite, got {scale}")
        if head != "auto" and (isinstance(head, bool) or not isinstance(head, int) or head < 0):
            raise ConfigError(f"RewardModel: head must be auto or the index of an objective, from 0, got {head!r}")
        self.scale, self.head = scale, head

    def _check(self, config: dict[str, Any]) -> None:
        architecture = (config.get("architectures") or ["no named architecture"])[0]
        gated = _is_gated(config)
        self.needs_prompt_end = gated
        if not gated and not architecture.endswith("ForSequenceClassification"):
            own_code = ", whose code comes with it and is not run" if config.get("auto_map") else ""
            raise ConfigError(
                f"RewardModel: {self.model} is {architecture}{own_code}; known are ...ForSequenceClassification and "
                "ArmoRM's ...ForRewardModelWithGating. A language model without a reward head is no reward model"
            )
        self._files.require(*(GATED_TENSORS if gated else ()))
        # As transformers counts labels: by their names, two if none are given.
        count = _num_objectives(config) if gated else len(config.get("id2label") or range(config.get("num_labels", 2)))
        names = list((config.get("id2label") or {}).values())
        if self.head == "auto" and not gated and count != 1:
            raise ConfigError(
                f"RewardModel: {self.model} gives {count} numbers ({', '.join(map(str, names[:20]))}); say which is "
                f"the reward: data.oracle.head 0 ... {count - 1}"
            )
        if self.head != "auto" and self.head >= count:
            raise ConfigError(
                f"RewardModel: data.oracle.head is {self.head}, but {self.model} has the objectives 0 ... {count - 1}"
            )

    def _load(self, dtype: torch.dtype) -> nn.Module:
        config = self._files.config()
        place = None if self.head == "auto" else int(self.head)
        if _is_gated(config):
            return GatedRewards.load(self._files, dtype, place, float(config.get("gating_temperature", 10)))
        return ClassifierRewards.load(self._files, dtype, place or 0)

    def _log_odds(self, rows_BKD: Tensor, columns_BJD: Tensor) -> Tensor:
        return self.scale * (rows_BKD - columns_BJD.transpose(1, 2))

    def _scores(self, rows_BKD: Tensor, log_odds_BKJ: Tensor, judged_BKJ: Tensor) -> Tensor:
        return rows_BKD[..., 0]


def _is_gated(config: dict[str, Any]) -> bool:
    return any(name.endswith("ForRewardModelWithGating") for name in config.get("architectures") or [])


def _num_objectives(config: dict[str, Any]) -> int:
    return int(config.get("num_objectives", 19))  # ArmoRM's own default
