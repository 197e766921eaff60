"""PairRM's network, and reading it from either of the two layouts in which it is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.judge_files import JudgeFiles
from sppo_lightning.oracles.pairrm_text import MARKS, mark_ids

_LIMITS = (1224, 412)  # what PairRM was trained with
_TENSORS = ("pretrained_model.embeddings.word_embeddings.weight", "head_layer.1.weight", "head_layer.4.weight")
_PREFIX_KEYS = ("source_prefix_id", "cand1_prefix_id", "cand2_prefix_id", "cand_prefix_id")


class PairRMNetwork(nn.Module):
    """A DeBERTa encoder, and one head on the states of the source's and of a candidate's mark.

    The names are those of the published checkpoints.
    """

    def __init__(self, encoder: nn.Module, hidden_size: int, num_tasks: int) -> None:
        super().__init__()
        self.pretrained_model = encoder
        self.head_layer = nn.Sequential(
            nn.Identity(),  # dropout in training
            nn.Linear(2 * hidden_size, hidden_size),
            nn.Tanh(),
            nn.Identity(),
            nn.Linear(hidden_size, num_tasks),
        )

    def forward(self, ids_RT: Tensor, mask_RT: Tensor, marks_R3: Tensor) -> Tensor:
        """[R] log-odds that the first candidate beats the second.

        Args:
            ids_RT: [CLS] mark text [SEP], three times: source, first, second; padded on the right.
            mask_RT: 1 where a token is real.
            marks_R3: where the three marks stand.
        """
        states_RTH = self.pretrained_model(input_ids=ids_RT, attention_mask=mask_RT).last_hidden_state
        rows_R1 = torch.arange(len(ids_RT), device=ids_RT.device)[:, None]
        source_RH, first_RH, second_RH = states_RTH[rows_R1, marks_R3].unbind(1)
        first_RN = self.head_layer(torch.cat([source_RH, first_RH], dim=-1))
        second_RN = self.head_layer(torch.cat([source_RH, second_RH], dim=-1))
        return (first_RN - second_RN).float().mean(dim=-1)


class PairRMCheckpoint:
    """The files of a PairRM, in the hub's PairRM-hf layout or in llm-blender's own.

    PairRM-hf: config.json is DeBERTa's with the marks' ids, and the tokenizer knows the marks. llm-blender's own:
    config.json is its `RankerConfig` and names the encoder, whose folder gives configuration and tokenizer; the marks
    are added to it.

    Args:
        source: a folder or hub id.
    """

    def __init__(self, source: str) -> None:
        self._files = JudgeFiles(source, "PairRM")

    def check(self) -> None:
        """Reads what is small, and looks whether the weights are there.

        Raises:
            ConfigError: this is no PairRM, or something of it is missing.
        """
        self._encoder_config()
        self.tokenizer()
        self._files.require(*_TENSORS)

    def folder(self) -> Path:
        """Where the files are, weights included."""
        return self._files.folder(weights=True)

    def limits(self) -> tuple[int, int]:
        """Most tokens of a source and of a candidate, by the checkpoint's configuration or else as published."""
        config = self._files.config()
        source, candidate = (config.get(key) for key in ("source_maxlength", "candidate_maxlength"))
        return int(source or _LIMITS[0]), int(candidate or _LIMITS[1])

    def tokenizer(self) -> Any:
        """The tokenizer, marks included.

        Raises:
            ConfigError: it cannot be read, or its marks are not those of the network.
        """
        config = self._config()
        tokenizer = self._encoder_files(config).tokenizer()
        if "ranker_type" in config:
            tokenizer.add_tokens(list(MARKS))
        ids = mark_ids(tokenizer)
        named = [config.get(key, found) for key, found in zip(_PREFIX_KEYS, ids, strict=True)]
        if named != list(ids):
            raise ConfigError(
                f"PairRM: config.json of {self._files.source} gives the marks {', '.join(MARKS)} the ids {named}, its "
                f"tokenizer {list(ids)}; the two do not belong together"
            )
        return tokenizer

    def load(self, dtype: torch.dtype, num_tokens: int) -> PairRMNetwork:
        """The network, on the CPU.

        Args:
            dtype: its precision.
            num_tokens: how many its tokenizer knows.

        Raises:
            ConfigError: the weights are missing, damaged, a pickle, or another network's.
        """
        from transformers import AutoModel

        self._files.require(*_TENSORS, fetch=True)
        weights = self._files.tensors()
        config, ranker = self._encoder_config(), self._config()
        embeddings = weights[_TENSORS[0]]
        config.vocab_size = len(embeddings)  # the marks were added to the encoder's
        if num_tokens > len(embeddings):
            raise ConfigError(
                f"PairRM: the tokenizer of {self._files.source} has {num_tokens} tokens, its network only "
                f"{len(embeddings)}; the two do not belong together"
            )
        network = PairRMNetwork(AutoModel.from_config(config), config.hidden_size, int(ranker.get("n_tasks") or 1))
        try:
            report = network.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise ConfigError(
                f"PairRM: the weights of {self._files.source} do not fit its config.json: {error}"
            ) from error
        # Older versions of transformers stored the positions, which are 0, 1, 2, ...
        wrong = [*report.missing_keys, *(name for name in report.unexpected_keys if "position_ids" not in name)]
        if wrong:
            raise ConfigError(
                f"PairRM: the weights of {self._files.source} do not fit its config.json: {len(report.missing_keys)} "
                f"are missing and {len(wrong) - len(report.missing_keys)} unknown, such as {wrong[0]}"
            )
        return network.to(dtype)

    def _config(self) -> dict[str, Any]:
        config = self._files.config()
        if "ranker_type" in config:
            if config["ranker_type"] != "pairranker" or not str(config.get("model_type")).startswith("deberta"):
                raise ConfigError(
                    f"PairRM: {self._files.source} is a {config['ranker_type']} on {config.get('model_type')}; only "
                    "llm-blender's pairranker on deberta is PairRM"
                )
        elif config.get("model_type") != "deberta-v2" or "source_prefix_id" not in config:
            architecture = ", ".join(config.get("architectures") or []) or "of no named architecture"
            raise ConfigError(
                f"PairRM: {self._files.source} is {architecture} (model_type {config.get('model_type')}), not a "
                "PairRM: its config.json has neither ranker_type nor source_prefix_id. A reward model goes into "
                "data.oracle RewardModel"
            )
        return config

    def _encoder_files(self, config: dict[str, Any]) -> JudgeFiles:
        if "ranker_type" not in config:
            return self._files
        if not config.get("model_name"):
            raise ConfigError(
                f"PairRM: config.json of {self._files.source} has no model_name, the encoder it stands on"
            )
        return JudgeFiles(str(config["model_name"]), f"PairRM: the encoder of {self._files.source}")

    def _encoder_config(self) -> Any:
        from transformers import AutoConfig

        config = self._config()
        files = self._encoder_files(config)
        found = files.config()
        if found.get("model_type") != "deberta-v2":
            raise ConfigError(
                f"PairRM: the encoder {files.source} is a {found.get('model_type')}; PairRM stands on a deberta-v2"
            )
        return AutoConfig.from_pretrained(files.folder())
