"""The networks behind `RewardModel`: token ids of a conversation to one reward."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.judge_files import JudgeFiles
from sppo_lightning.oracles.response_judge import last_states

GATED_TENSORS = ("regression_layer.weight", "reward_transform_matrix", "gating.logit_scale", "gating.layers.0.weight")
"""What tells ArmoRM's weights from others."""


class ClassifierRewards(nn.Module):
    """One logit of a sequence classifier.

    A decoder's is read at the row's last token, not by the model's own forward, which looks for the last token that is
    not the padding id: where a tokenizer pads with the terminator it would miss it.
    """

    def __init__(self, model: Any, place: int) -> None:
        super().__init__()
        self.model, self._place = model, place
        # A tokenizer may tell segments that the model has no embeddings of.
        self._has_segments = (
            "token_type_ids" in inspect.signature(model.forward).parameters
            and getattr(model.config, "type_vocab_size", 2) > 1
        )

    def forward(self, ids_RT: Tensor, mask_RT: Tensor, segments_RT: Tensor, prompt_ends_R: Tensor) -> Tensor:
        """[R, 1]."""
        if isinstance(getattr(self.model, "score", None), nn.Linear):
            _, last_RH = last_states(self.model.base_model, ids_RT, mask_RT)
            logits_RL = self.model.score(last_RH)
        else:
            segments = {"token_type_ids": segments_RT} if self._has_segments else {}
            logits_RL = self.model(input_ids=ids_RT, attention_mask=mask_RT, **segments).logits
        return logits_RL[:, self._place, None]

    @classmethod
    def load(cls, files: JudgeFiles, dtype: torch.dtype, place: int) -> ClassifierRewards:
        """Reads it from its files.

        Raises:
            ConfigError: the weights are missing, damaged, a pickle, or have no reward head.
        """
        from transformers import AutoModelForSequenceClassification

        return cls(load_model(AutoModelForSequenceClassification, files, dtype), place)


class GatedRewards(nn.Module):
    """ArmoRM, arXiv 2406.12845: objectives r, and weights of them g that the state at the prompt's end decides.

    score = g . (r M), g = scale * softmax(MLP(state) / temperature), M the matrix that takes the length out of r.

    Args:
        model: the decoder.
        heads: the tensors of the two heads by name.
        place: index of the objective that is the reward; None: the score.
        temperature: of the gate.
    """

    def __init__(self, model: Any, heads: Mapping[str, Tensor], place: int | None, temperature: float) -> None:
        super().__init__()
        self.model, self._place, self._temperature = model, place, temperature
        self.regression_layer = _linear(heads["regression_layer.weight"], None)
        self.transform = nn.Parameter(heads["reward_transform_matrix"], requires_grad=False)
        self.logit_scale = nn.Parameter(heads["gating.logit_scale"], requires_grad=False)
        layers = sorted({int(name.split(".")[2]) for name in heads if name.startswith("gating.layers.")})
        self.gating = nn.ModuleList(
            _linear(heads[f"gating.layers.{i}.weight"], heads.get(f"gating.layers.{i}.bias")) for i in layers
        )

    def forward(self, ids_RT: Tensor, mask_RT: Tensor, segments_RT: Tensor, prompt_ends_R: Tensor) -> Tensor:
        """[R, 1]."""
        states_RTH, last_RH = last_states(self.model, ids_RT, mask_RT)
        rewards_RN = self.regression_layer(last_RH)
        if self._place is not None:
            return rewards_RN[:, self._place, None]
        gate_RN = states_RTH[torch.arange(len(ids_RT), device=ids_RT.device), prompt_ends_R]
        for i, layer in enumerate(self.gating):
            gate_RN = layer(gate_RN if i == 0 else gate_RN.relu())
        gate_RN = (gate_RN / self._temperature).softmax(-1) * self.logit_scale[0]
        return (gate_RN * (rewards_RN @ self.transform)).sum(-1, keepdim=True)

    @classmethod
    def load(cls, files: JudgeFiles, dtype: torch.dtype, place: int | None, temperature: float) -> GatedRewards:
        """Reads it from its files; see `ClassifierRewards.load`."""
        from transformers import AutoModel

        files.require(*GATED_TENSORS, fetch=True)
        names = [name for name in files.tensor_names() if name.startswith("gating.layers.")]
        heads = {name: head.to(dtype) for name, head in files.tensors([*GATED_TENSORS, *names]).items()}
        return cls(load_model(AutoModel, files, dtype), heads, place, temperature)


def load_model(auto_class: Any, files: JudgeFiles, dtype: torch.dtype) -> Any:
    """A transformers model all of whose weights are in the files.

    Raises:
        ConfigError: they are not, or cannot be read.
    """
    folder = files.folder(weights=True)
    files.require(fetch=True)
    try:
        with (
            _quietly()
        ):  # its report calls the heads that are read elsewhere unexpected; what is missing is refused below
            model, report = auto_class.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True, trust_remote_code=False
            )
    except Exception as error:
        raise ConfigError(f"{files.judge}: the weights of {files.source} cannot be read: {error}") from error
    missing = sorted(report["missing_keys"]) + sorted(map(str, report.get("mismatched_keys", ())))
    if missing:
        raise ConfigError(
            f"{files.judge}: the weights of {files.source} lack {len(missing)} tensors of the network that its "
            f"config.json describes, such as {missing[0]}; they would be random"
        )
    return model


@contextmanager
def _quietly() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
