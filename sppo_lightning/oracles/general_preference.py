"""General preference models: a response becomes a vector, and two vectors a preference that may be cyclic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.judge_files import JudgeFiles
from sppo_lightning.oracles.judge_model import Dtype
from sppo_lightning.oracles.response_judge import ResponseJudge, last_states
from sppo_lightning.oracles.reward_networks import load_model

_VALUE_HEAD, _PROMPT_HEAD = "value_head.weight", "prompt_head.weight"


class GeneralPreference(ResponseJudge):
    """GPM, arXiv 2410.02197: P(y > y') = sigmoid(s(y, y') / tau), at the cost of one forward pass a response.

    s(y, y') = sum_k lambda_k (v_2k v'_2k+1 - v_2k+1 v'_2k), with v the value head at the response's last token, scaled
    to length 1, and lambda the softmax of the prompt head at the prompt's last token (1 without such a head). s is
    skew-symmetric, so cycles can be expressed. Reads the layout of the hub's general-preference/GPM-*. The score of a
    response is the mean of s / tau over those it is compared with: what GPO regresses onto. (The official scripts use
    s(y, y') - s(y', y) there, twice as much.)

    Args:
        model: a Hugging Face folder or hub id. Only safetensors are read, and no code that comes with a model is run.
        tau: temperature of s; the published models were trained with .1.
        normalize: scale v to length 1, as the published models were trained.
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
        tau: float = 0.1,
        normalize: bool = True,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
    ) -> None:
        super().__init__(model, max_tokens, batch_tokens, dtype, device)
        if not 0 < tau < float("inf"):
            raise ConfigError(f"GeneralPreference: tau must be positive and finite, got {tau}")
        self.tau, self.normalize = tau, normalize

    def _check(self, config: dict[str, Any]) -> None:
        self.needs_prompt_end = True  # whether there is a prompt head only the weights tell
        if config.get("is_encoder_decoder") or config.get("model_type") in ("bert", "roberta", "deberta-v2"):
            raise ConfigError(
                f"GeneralPreference: {self.model} is a {config.get('model_type')}; a GPM is a causal language model "
                "with a value head"
            )
        self._files.require(_VALUE_HEAD)
        tokenizer = self._files.tokenizer()
        if tokenizer.eos_token_id is None:
            raise ConfigError(f"GeneralPreference: the tokenizer of {self.model} has no eos_token, where a GPM is read")

    def _load(self, dtype: torch.dtype) -> nn.Module:
        return PreferenceEmbedding.load(self._files, dtype, self._files.tokenizer().eos_token_id, self.normalize)

    def _log_odds(self, rows_BKD: Tensor, columns_BJD: Tensor) -> Tensor:
        # lambda is in the vectors: its root in both.
        cross_BKJ = rows_BKD[..., 0::2] @ columns_BJD[..., 1::2].transpose(1, 2)
        back_BKJ = rows_BKD[..., 1::2] @ columns_BJD[..., 0::2].transpose(1, 2)
        return (cross_BKJ - back_BKJ) / self.tau

    def _scores(self, rows_BKD: Tensor, log_odds_BKJ: Tensor, judged_BKJ: Tensor) -> Tensor:
        return (log_odds_BKJ * judged_BKJ).sum(-1) / judged_BKJ.sum(-1)


class PreferenceEmbedding(nn.Module):
    """A decoder with GPM's heads.

    Args:
        model: the decoder.
        value_head_DH: to D = 2d values.
        prompt_head_dH: to d eigenvalues; None: all are 1.
        eos_id: stands in the place of every row's last token, as the published code has it.
        normalize: scale the values to length 1.
    """

    def __init__(
        self, model: Any, value_head_DH: Tensor, prompt_head_dH: Tensor | None, eos_id: int, normalize: bool
    ) -> None:
        super().__init__()
        self.model, self._eos_id, self._normalize = model, eos_id, normalize
        self.value_head = nn.Parameter(value_head_DH, requires_grad=False)
        self.prompt_head = None if prompt_head_dH is None else nn.Parameter(prompt_head_dH, requires_grad=False)

    def forward(self, ids_RT: Tensor, mask_RT: Tensor, segments_RT: Tensor, prompt_ends_R: Tensor) -> Tensor:
        """[R, D] values, each pair of them times the root of its eigenvalue."""
        rows_R = torch.arange(len(ids_RT), device=ids_RT.device)
        ids_RT[rows_R, mask_RT.sum(-1) - 1] = self._eos_id
        states_RTH, last_RH = last_states(self.model, ids_RT, mask_RT)
        values_RD = (last_RH @ self.value_head.T).float()
        if self._normalize:
            values_RD = nn.functional.normalize(values_RD, dim=-1)
        if self.prompt_head is not None:
            logits_Rd = states_RTH[rows_R, prompt_ends_R] @ self.prompt_head.T
            values_RD = values_RD * logits_Rd.float().softmax(-1).sqrt().repeat_interleave(2, dim=-1)
        return values_RD

    @classmethod
    def load(cls, files: JudgeFiles, dtype: torch.dtype, eos_id: int, normalize: bool) -> PreferenceEmbedding:
        """Reads it from its files.

        Raises:
            ConfigError: the weights are missing, damaged, a pickle, or have no value head.
        """
        from transformers import AutoModel

        files.require(_VALUE_HEAD, fetch=True)
        heads = files.tensors([_VALUE_HEAD, _PROMPT_HEAD])
        value_head = heads[_VALUE_HEAD]
        if len(value_head) % 2:
            raise ConfigError(
                f"GeneralPreference: {files.source} is no GPM: {_VALUE_HEAD} must give an even number of values, it "
                f"gives {len(value_head)}. A reward model with one value goes into data.oracle RewardModel"
            )
        prompt_head = heads.get(_PROMPT_HEAD)
        if prompt_head is not None and 2 * len(prompt_head) != len(value_head):
            raise ConfigError(
                f"GeneralPreference: {_PROMPT_HEAD} of {files.source} has {len(prompt_head)} eigenvalues for "
                f"{len(value_head)} values; it must be half as many"
            )
        return cls(
            load_model(AutoModel, files, dtype),
            value_head.to(dtype),
            None if prompt_head is None else prompt_head.to(dtype),
            eos_id,
            normalize,
        )
