"""A programmatic oracle with a known game in it: quality plus a cycle of styles that no single answer can win."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import check_same_prompts, judged_mask, pad
from sppo_lightning.oracles.text_quality import perfect_body, text_quality
from sppo_lightning.types import Candidates, PreferenceMatrix

OPENERS = ("Briefly,", "Well,", "Imagine:")
NO_OPENER = len(OPENERS)
NUM_STYLES = len(OPENERS) + 1


class StyleGame(PreferenceOracle):
    """Scores any text: P(y > y') = (1 - w) * S[style(y), style(y')] + w * (1 + quality(y) - quality(y')) / 2.

    The style is decided by the opening words alone: "Briefly," (concise), "Well," (medium), "Imagine:" (long), or none
    of them. S is a cycle, so without quality no style is best. Quality is `text_quality` of what follows the opener.
    Both parts lie in [0, 1] and so does their mixture. P is linear in the pair (style, quality), which gives the best
    reply over ALL texts in closed form from two numbers of a policy: its style mix and its mean quality.

    Example:
        "Briefly, the price of a kettle is fair." beats "Well, it is what it is" with probability
        0.3 * 0.9 + 0.7 * (1 + 1 - 0) / 2 = 0.97 for the prompt "Is the price of a kettle fair?".

    Args:
        cycle: probability that "Briefly," beats "Well,", "Well," beats "Imagine:" and "Imagine:" beats "Briefly,",
            in this order, qualities being equal. Each in [0, 1].
        no_opener: probability that a response without an opener beats one with an opener, qualities being equal.
        quality_weight: w in [0, 1]. 0 gives the pure style game, whose equilibrium for (0.9, 0.7, 0.8) is
            (2/9, 3/9, 4/9); 1 gives quality alone, which has no cycle.

    Raises:
        ConfigError: an argument outside its range.
    """

    costs = False

    def __init__(
        self,
        cycle: tuple[float, float, float] = (0.9, 0.7, 0.8),
        no_opener: float = 0.05,
        quality_weight: float = 0.7,
    ) -> None:
        if len(cycle) != len(OPENERS):
            raise ConfigError(f"StyleGame: cycle needs {len(OPENERS)} probabilities, got {list(cycle)}")
        for key, value in [*((f"cycle[{i}]", p) for i, p in enumerate(cycle)), ("no_opener", no_opener)]:
            if not 0 <= value <= 1:
                raise ConfigError(f"StyleGame: {key} is a probability and must lie in [0, 1], got {value}")
        if not 0 <= quality_weight <= 1:
            raise ConfigError(f"StyleGame: quality_weight must lie in [0, 1], got {quality_weight}")
        self.cycle = tuple(cycle)
        self.no_opener = no_opener
        self.quality_weight = quality_weight

    @staticmethod
    def style(text: str) -> int:
        """Returns the index of the opener that `text` starts with, in the order of `OPENERS`, or `NO_OPENER`."""
        return next((index for index, opener in enumerate(OPENERS) if text.startswith(opener)), NO_OPENER)

    @staticmethod
    def quality(prompt: str, text: str) -> float:
        """Returns the quality in [0, 1] of a response as an answer to a prompt; its opener neither helps nor hurts."""
        style = StyleGame.style(text)
        return text_quality(prompt, text if style == NO_OPENER else text[len(OPENERS[style]) :])

    @staticmethod
    def perfect_reply(prompt: str, style: int) -> str:
        """Returns a text of the given style whose quality for this prompt is 1."""
        body = perfect_body(prompt)
        return body if style == NO_OPENER else f"{OPENERS[style]} {body}"

    def style_matrix(self) -> Tensor:
        """Returns S, float64 [num_styles, num_styles]: P(row style beats column style), qualities being equal."""
        matrix_SS = torch.full((NUM_STYLES, NUM_STYLES), 0.5, dtype=torch.float64)
        for winner, probability in enumerate(self.cycle):
            loser = (winner + 1) % len(OPENERS)
            matrix_SS[winner, loser] = probability
            matrix_SS[loser, winner] = 1 - probability
        matrix_SS[NO_OPENER, :NO_OPENER] = self.no_opener
        matrix_SS[:NO_OPENER, NO_OPENER] = 1 - self.no_opener
        return matrix_SS

    def best_reply_value(self, style_mix: Sequence[float] | Tensor, mean_quality: float) -> float:
        """Returns the largest P(y > pi) over all texts y, for a policy pi at one prompt.

        P is linear in the opponent's style and quality, so P(y > pi) depends on pi through their means alone, and the
        best reply has quality 1 in the style with the largest (S @ style_mix). Such a text exists for every prompt:
        `perfect_reply`.

        Args:
            style_mix: [num_styles] probability of each opener under pi, the last entry that of none.
            mean_quality: expected quality of pi's responses to this prompt, in [0, 1].
        """
        mix_BS = torch.as_tensor(style_mix, dtype=torch.float64)[None]
        return float(self._best_reply_values(mix_BS, torch.tensor([mean_quality], dtype=torch.float64))[0])

    def exploitability(self, style_mix_BS: Tensor, mean_quality_B: Tensor) -> float:
        """Returns the exploitability of a policy: the mean over prompts of 2 * (best reply - 1/2), in [0, 1].

        A policy is a map from prompts, so its best reply may look at the prompt; this is the duality gap of (pi, pi).
        The result is exact for exact arguments. It is linear in quality, so that the mean quality of samples keeps it
        unbiased; the style mix must not be sampled, for the maximum over noisy estimates is too large on average.

        Args:
            style_mix_BS: [B, num_styles] the policy's exact style mix at each prompt.
            mean_quality_B: [B] the policy's expected quality at each prompt, such as `mean_quality` of its samples.
        """
        values_B = self._best_reply_values(style_mix_BS.double(), mean_quality_B.double())
        return float((2 * (values_B - 0.5)).mean())

    @staticmethod
    def mean_quality(candidates: Candidates) -> Tensor:
        """Returns float64 [B]: the mean quality of each prompt's responses."""
        return torch.tensor(
            [
                sum(StyleGame.quality(prompt.text, text) for text in texts) / len(texts)
                for prompt, texts in zip(candidates.prompts, candidates.texts, strict=True)
            ],
            dtype=torch.float64,
        )

    def _best_reply_values(self, style_mix_BS: Tensor, mean_quality_B: Tensor) -> Tensor:
        w = self.quality_weight
        best_style_B = (style_mix_BS @ self.style_matrix().T).amax(dim=-1)
        return (1 - w) * best_style_B + w * (2 - mean_quality_B) / 2

    def compare(self, candidates: Candidates, opponents: Candidates | None = None) -> PreferenceMatrix:
        """Judges by the formula of the class; where prompts have different K, missing responses are not judged."""
        columns = check_same_prompts(candidates, opponents)
        style_BK, quality_BK = self._features(candidates)
        style_BJ, quality_BJ = self._features(columns)
        w = self.quality_weight
        style_part_BKJ = self.style_matrix()[style_BK[:, :, None], style_BJ[:, None, :]]
        quality_part_BKJ = (1 + quality_BK[:, :, None] - quality_BJ[:, None, :]) / 2
        return PreferenceMatrix(
            probs_BKJ=((1 - w) * style_part_BKJ + w * quality_part_BKJ).float(),
            judged_BKJ=judged_mask(candidates, columns),
            self_play=opponents is None,
            prompt_ids=[prompt.prompt_id for prompt in candidates.prompts],
        )

    def _features(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        style_BK = [[self.style(text) for text in texts] for texts in candidates.texts]
        quality_BK = [
            [self.quality(prompt.text, text) for text in texts]
            for prompt, texts in zip(candidates.prompts, candidates.texts, strict=True)
        ]
        return pad(style_BK, NO_OPENER, torch.long), pad(quality_BK, 0.0, torch.float64)
