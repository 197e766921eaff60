"""Judges that are models and read one response at a time: K forward passes for K responses, not K^2."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.chat_rows import ChatRows
from sppo_lightning.oracles.judge_files import JudgeFiles
from sppo_lightning.oracles.judge_model import (
    Dtype,
    check_weights_finite,
    choose_batch_tokens,
    choose_device,
    choose_dtype,
    deciding_dtype,
    in_batches,
    release_memory,
)
from sppo_lightning.oracles.ragged import check_same_prompts, judged_mask
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt

_MAX_TOKENS = 4096


class ResponseJudge(PreferenceOracle):
    """A model that turns a response into D numbers, from which the log-odds of any two responses follow.

    A response of which nothing can be read, because its prompt alone is too long, gets no verdict.

    Subclasses write `_check`, `_load` and `_log_odds`.

    Args:
        model: a Hugging Face folder or hub id. Only safetensors are read, and no code that comes with a model is run.
        max_tokens: a longer conversation loses the end of the response. Not set: 4096, or fewer if the model has fewer
            positions.
        batch_tokens: rows of a batch times its longest row; memory grows with it. Not set: 16384 on a GPU, 2048 on a
            CPU.
        dtype: precision; auto is bfloat16 on a GPU and float32 on a CPU.
        device: auto is the GPU if there is one.

    Raises:
        ConfigError: a limit below 1, or an unknown name.
    """

    gives_scores = True
    asked_by = "response"
    not_deciding = frozenset({"batch_tokens", "device"})
    needs_prompt_end = False

    def __init__(self, model: str, max_tokens: int | None, batch_tokens: int | None, dtype: Dtype, device: str) -> None:
        for name, value, least in (("max_tokens", max_tokens, 2), ("batch_tokens", batch_tokens, 1)):
            if value is not None and value < least:
                raise ConfigError(f"{type(self).__name__}: {name} must be at least {least}, got {value}")
        self.model, self.max_tokens, self.batch_tokens = model, max_tokens, batch_tokens
        self.dtype, self.device = dtype, device
        self._files = JudgeFiles(model, type(self).__name__)
        self._rows: Any = None
        self._network: Any = None
        self._num_rows = self._num_cut = 0

    @property
    def decides(self) -> dict[str, str]:
        """The precision that "auto" comes to; see `identity`."""
        return deciding_dtype(self.dtype, self.device)

    def for_round(self, earlier: Sequence[Iterable[Candidates]]) -> PreferenceOracle:
        """The same judge; what was cut is counted for each round."""
        other = copy.copy(self)
        other._num_rows = other._num_cut = 0
        return other

    @abstractmethod
    def _check(self, config: dict[str, Any]) -> None:
        """Raises ConfigError if this is no judge of this kind; looks for the weights, but reads none."""

    @abstractmethod
    def _load(self, dtype: torch.dtype) -> nn.Module:
        """The network, on the CPU: token ids, mask and segments, each [R, T], and prompt ends [R] to [R, D]."""

    @abstractmethod
    def _log_odds(self, rows_BKD: Tensor, columns_BJD: Tensor) -> Tensor:
        """[B, K, J] of row against column."""

    @abstractmethod
    def _scores(self, rows_BKD: Tensor, log_odds_BKJ: Tensor, judged_BKJ: Tensor) -> Tensor:
        """[B, K] what objectives read as scores."""

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Reads configuration and tokenizer, looks for the weights, and renders every prompt.

        Raises:
            ConfigError: the model is not there, is no judge of this kind, or is a pickle.
            OracleError: the judge's chat template refuses a prompt.
        """
        choose_dtype(self.dtype, choose_device(self.device))
        self._check(self._files.config())
        self._chat_rows().check(prompts)

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Reads every different response of a prompt once."""
        columns = check_same_prompts(candidates, opponents)
        number: dict[tuple[int, str], int] = {}
        for responses in (candidates, columns):
            for b, texts in enumerate(responses.texts):
                for text in texts:
                    number.setdefault((b, text), len(number))
        read_ND, has_N = self._read([(candidates.prompts[b], text) for b, text in number])
        rows_BKD, columns_BJD = (
            nn.utils.rnn.pad_sequence(
                [read_ND[[number[b, text] for text in texts]] for b, texts in enumerate(responses.texts)],
                batch_first=True,
            )
            for responses in (candidates, columns)
        )
        has_BK, has_BJ = (
            nn.utils.rnn.pad_sequence(
                [has_N[[number[b, text] for text in texts]] for b, texts in enumerate(responses.texts)],
                batch_first=True,
            )
            for responses in (candidates, columns)
        )
        judged_BKJ = judged_mask(candidates, columns) & has_BK[:, :, None] & has_BJ[:, None, :]
        log_odds_BKJ = self._log_odds(rows_BKD, columns_BJD)
        scores_BK = self._scores(rows_BKD, log_odds_BKJ, judged_BKJ).masked_fill(~judged_BKJ.any(-1), float("nan"))
        return PreferenceMatrix(
            probs_BKJ=torch.sigmoid(log_odds_BKJ).masked_fill(~judged_BKJ, 0.5).float(),
            judged_BKJ=judged_BKJ,
            scores_BK=scores_BK.float(),
            self_play=opponents is None,
            prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
        )

    def measured(self) -> dict[str, float]:
        """`cut_share`: the share of responses that were too long and judged without their end."""
        return {"cut_share": self._num_cut / self._num_rows} if self._num_rows else {}

    def close(self) -> None:
        """Frees the network."""
        self._network = self._rows = None
        release_memory()

    def _read(self, items: Sequence[tuple[Prompt, str]]) -> tuple[Tensor, Tensor]:
        """[N, D] float64, what the network makes of each response, and bool [N], whether it saw any of it."""
        if self._network is None:
            device = choose_device(self.device)
            self._check(self._files.config())
            self._rows = self._chat_rows()
            network = self._load(choose_dtype(self.dtype, device))
            check_weights_finite(network, type(self).__name__, self.model)
            self._network = network.to(device).eval()
        rows, num_cut = self._rows.rows(items)
        self._num_rows += len(rows)
        self._num_cut += num_cut
        device = next(self._network.parameters()).device
        ends_N = torch.tensor([row.prompt_end for row in rows])

        def forward(ids_RT: Tensor, mask_RT: Tensor, indices: list[int]) -> Tensor:
            segments_RT = _padded([rows[index].segments for index in indices], device)
            return self._network(ids_RT, mask_RT, segments_RT, ends_N[indices].to(device))

        read_ND = in_batches(
            [row.ids for row in rows],
            forward,
            batch_tokens=choose_batch_tokens(self.batch_tokens, device),
            pad_id=self._rows.pad_id,
            device=device,
        )
        bad_N = ~torch.isfinite(read_ND).all(-1)
        if bool(bad_N.any()):
            prompt = items[int(bad_N.nonzero()[0])][0]
            raise OracleError(
                f"{type(self).__name__}: what {self.model} answers to a response to prompt {prompt.prompt_id} is not a "
                f"finite number ({int(bad_N.sum())} of {len(items)}). If the weights are sound, the precision is too "
                "small: data.oracle.dtype float32"
            )
        return read_ND, torch.tensor([row.has_response for row in rows])

    def _chat_rows(self) -> ChatRows:
        return ChatRows(
            self._files.tokenizer(),
            type(self).__name__,
            self.max_tokens or min(_MAX_TOKENS, self._files.num_positions() or _MAX_TOKENS),
            needs_prompt_end=self.needs_prompt_end,
        )


def _padded(rows: Sequence[list[int]], device: torch.device) -> Tensor:
    """[R, T], 0 where a row is shorter than the longest."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)


def last_states(model: Any, ids_RT: Tensor, mask_RT: Tensor) -> tuple[Tensor, Tensor]:
    """A causal model's states [R, T, H], and those of each row's last token [R, H].

    Under causal attention no token sees the padding to its right, so that no mask is needed and the model may take its
    fastest kernel.
    """
    states_RTH = model(input_ids=ids_RT, use_cache=False).last_hidden_state
    return states_RTH, states_RTH[torch.arange(len(ids_RT), device=ids_RT.device), mask_RT.sum(-1) - 1]
