"""An oracle for prompts whose answer is known: a response is right or wrong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import check_same_prompts, judged_mask, pad
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt


class Verifier(PreferenceOracle):
    r"""Compares responses with the answer in the prompt's file: P = 1 for right against wrong, 1/2 for like with like.

    The scores are 1 for right and 0 for wrong, for objectives that want a reward. Nothing is executed.

    Example:
        Prompts like `{"prompt": "3 + 4 = ?", "answer": "7"}`, answered by "... so the answer is 7.", with
        `extract: "answer is (-?\\d+)"`.

    Args:
        answer: the field of the prompt's record that holds the answer.
        match: "exact": what was extracted equals the answer, but for white space around both; "regex": the field holds
            a regular expression that matches all of what was extracted.
        extract: a regular expression that finds the answer in the response: its first group, or all of it if it has
            none, where it matches last. A response without a match is wrong. Not set: the whole response.

    Raises:
        ConfigError: `match` is unknown, or `extract` is not a regular expression.
    """

    gives_scores = True

    def __init__(
        self, answer: str = "answer", match: Literal["exact", "regex"] = "exact", extract: str | None = None
    ) -> None:
        if match not in ("exact", "regex"):
            raise ConfigError(f"data.oracle.match must be exact or regex, got {match!r}")
        self.answer, self.match = answer, match
        try:
            self.extract = None if extract is None else re.compile(extract)
        except re.error as error:
            raise ConfigError(f"data.oracle.extract: {extract!r} is not a regular expression ({error})") from error

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Refuses prompts without an answer.

        Raises:
            OracleError: a prompt has no answer, or one that is not a regular expression where it should be.
        """
        for prompt in prompts:
            self._pattern(prompt)

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Checks every response once.

        Raises:
            OracleError: see `check_prompts`.
        """
        columns = check_same_prompts(candidates, opponents)
        scores_BK = self._scores(candidates)
        scores_BJ = scores_BK if opponents is None else self._scores(opponents)
        judged_BKJ = judged_mask(candidates, columns)
        margins_BKJ = (scores_BK[:, :, None] - scores_BJ[:, None, :]).nan_to_num(0.0)
        return PreferenceMatrix(
            probs_BKJ=(1 + margins_BKJ) / 2,
            judged_BKJ=judged_BKJ,
            scores_BK=scores_BK,
            self_play=opponents is None,
            prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
        )

    def _scores(self, candidates: Candidates) -> Tensor:
        """[B, K] 1 for right, 0 for wrong, NaN where there is no response."""
        rights = [
            [float(self._is_right(text, pattern)) for text in texts]
            for pattern, texts in zip(map(self._pattern, candidates.prompts), candidates.texts, strict=True)
        ]
        return pad(rights, float("nan"), torch.float32)

    def _is_right(self, text: str, pattern: re.Pattern[str]) -> bool:
        if self.extract is not None:
            found = list(self.extract.finditer(text))
            if not found:
                return False
            text = found[-1][min(1, self.extract.groups)] or ""
        return pattern.fullmatch(text.strip()) is not None

    def _pattern(self, prompt: Prompt) -> re.Pattern[str]:
        """What the extracted text must match."""
        if prompt.metadata.get(self.answer) is None:
            fields = ", ".join(sorted(prompt.metadata)) or "no further field"
            raise OracleError(
                f"Verifier: prompt {prompt.prompt_id} has no field {self.answer!r}, it has {fields}. Name the field "
                "with the answer: --data.oracle.answer FIELD"
            )
        answer = str(prompt.metadata[self.answer]).strip()
        try:
            return re.compile(answer if self.match == "regex" else re.escape(answer))
        except re.error as error:
            raise OracleError(
                f"Verifier: the answer {answer!r} of prompt {prompt.prompt_id} is not a regular expression ({error}), "
                "which --data.oracle.match regex takes it to be"
            ) from error
