"""Iterative reward modelling: a scalar reward fitted on the oracle's comparisons, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModelForSequenceClassification

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.packs import pad_rows
from sppo_lightning.functional.rows import TokenRows, split_rows
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.oracles.ragged import pad
from sppo_lightning.oracles.score_to_preference import Scorer, ScoreToPreference
from sppo_lightning.selfplay.comparisons import PromptComparisons
from sppo_lightning.selfplay.reward_model import RewardModel
from sppo_lightning.training.policy import load_policy, load_tokenizer
from sppo_lightning.types import Candidates, Policies, PolicyHandle, ProgressBar


class BradleyTerryRewardModel(RewardModel):
    """A reward head on a language model, fitted anew each round: P(y > y') = sigmoid(r(y) - r(y')).

    Together with RLOO or GRPO this is RLHF with an iterated reward model, the baseline of SPO (arXiv 2401.04056); with
    SPPO or another objective on win rates, the win rates are its sigmoids. A scalar reward orders all responses: where
    the oracle's preferences go in circles, it cannot say so. Probabilities count as soft labels.

    The first process fits while the others wait; all of them score.

    Args:
        body: a Hugging Face folder or hub id that the model begins with; it must have the policy's tokenizer. Not set:
            the fixed pi_ref.
        learning_rate: of AdamW at the first step; it falls to 0 linearly.
        epochs: passes over the comparisons.
        batch_prompts: prompts in one optimiser step, each with all its comparisons.
        held_back: share of the prompts that are not fitted, to measure the model on; 0: none.
        earlier_rounds: fit on this run's earlier rounds, too, not only on this one.
        max_pack_tokens: tokens, padding included, that go through the model at once; bounds memory.

    Raises:
        ConfigError: a number outside its range; or, in use, no reward model can be made of the body.
    """

    def __init__(
        self,
        body: str | None = None,
        learning_rate: float = 1e-5,
        epochs: int = 1,
        batch_prompts: int = 64,
        held_back: float = 0.1,
        earlier_rounds: bool = True,
        max_pack_tokens: int = 8192,
    ) -> None:
        for name, value in (
            ("epochs", epochs),
            ("batch_prompts", batch_prompts),
            ("max_pack_tokens", max_pack_tokens),
        ):
            if value < 1:
                raise ConfigError(f"data.reward_model.{name} must be at least 1, got {value}")
        if not learning_rate > 0:
            raise ConfigError(f"data.reward_model.learning_rate must be above 0, got {learning_rate}")
        if not 0 <= held_back < 1:
            raise ConfigError(f"data.reward_model.held_back must be at least 0 and below 1, got {held_back}")
        self.body = body
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_prompts = batch_prompts
        self.held_back = held_back
        self.earlier_rounds = earlier_rounds
        self.max_pack_tokens = max_pack_tokens

    @torch.enable_grad()
    def fit(
        self,
        comparisons: Sequence[PromptComparisons],
        folder: Path,
        *,
        policies: Policies,
        seed: int,
        open_bar: Callable[[int], ProgressBar],
    ) -> dict[str, float]:
        """Maximises the Bradley-Terry likelihood from a reward of 0 everywhere; see `RewardModel`."""
        fitted, kept = self._split(comparisons, seed)
        model = self._begin(policies)
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate)
        num_steps = self.epochs * -(-len(fitted) // self.batch_prompts)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=max(1, num_steps))
        bar = open_bar(self.epochs * len(fitted))
        try:
            for epoch in range(self.epochs):
                generator = torch.Generator().manual_seed(derive_seed(seed, "reward_model", epoch))
                order = torch.randperm(len(fitted), generator=generator).tolist()
                for start in range(0, len(order), self.batch_prompts):
                    batch = [fitted[index] for index in order[start : start + self.batch_prompts]]
                    num_pairs = sum(len(prompt.pairs) for prompt in batch)
                    optimizer.zero_grad()
                    for margin_M, prob_M in self._margins(model, batch):
                        (binary_cross_entropy_with_logits(margin_M, prob_M, reduction="sum") / num_pairs).backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    decay.step()
                    bar.update(len(batch))
        finally:
            bar.close()
        model.save_pretrained(folder)
        policies.named("current").tokenizer.save_pretrained(folder)
        num_comparisons = sum(len(prompt.pairs) for prompt in fitted)
        return {"round/reward_model_comparisons": num_comparisons} | self._measure(model, kept)

    def oracle(self, folder: Path, policies: Policies) -> ScoreToPreference:
        """Its sigmoids of reward differences, and the rewards as scores."""
        return ScoreToPreference(_FittedReward(folder, policies.named("current"), self.max_pack_tokens))

    def _split(
        self, comparisons: Sequence[PromptComparisons], seed: int
    ) -> tuple[list[PromptComparisons], list[PromptComparisons]]:
        """The comparisons to fit and those held back, no prompt on both sides."""
        drawn = sorted(
            {prompt.prompt_id for prompt in comparisons},
            key=lambda prompt_id: derive_seed(seed, "reward_model", "held_back", prompt_id),
        )
        count = min(max(1, round(self.held_back * len(drawn))), len(drawn) - 1) if self.held_back else 0
        kept = set(drawn[:count])
        return (
            [prompt for prompt in comparisons if prompt.prompt_id not in kept],
            [prompt for prompt in comparisons if prompt.prompt_id in kept],
        )

    def _begin(self, policies: Policies) -> Any:
        """The body with a head of zeros, on the device and in the dtype of the policy."""
        policy, source = policies.named("current"), self.body or policies.named("anchor").folder
        weights = next(policy.model.parameters())
        if self.body and load_tokenizer(self.body).get_vocab() != policy.tokenizer.get_vocab():
            raise ConfigError(
                f"data.reward_model.body: {self.body} has another tokenizer than the policy, whose tokens it is to "
                "read; give a model with the same one, or leave it out for the policy's own body"
            )
        language_model: Any = load_policy(source, weights.dtype)
        config = language_model.config
        config.num_labels, config.pad_token_id = 1, policy.tokenizer.pad_token_id
        try:
            # On no device: the body is there already, and drawing a random one would take minutes and the random state.
            with torch.device("meta"):
                model: Any = AutoModelForSequenceClassification.from_config(config, dtype=weights.dtype)
        except ValueError as error:
            raise ConfigError(
                f"data.reward_model: transformers has no sequence classification model for {source} "
                f"({type(language_model).__name__}); give data.reward_model.body one that has"
            ) from error
        setattr(model, model.base_model_prefix, language_model.base_model)
        model.score.to_empty(device="cpu")
        for parameter in model.score.parameters():
            nn.init.zeros_(parameter)
        return model.to(weights.device).eval()

    def _margins(self, model: Any, prompts: Sequence[PromptComparisons]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pack by pack, [M] r(first) - r(second) of every pair and [M] P(first beats second)."""
        sizes = [
            len(prompt.response_ids) * (len(prompt.prompt_ids) + max(map(len, prompt.response_ids)))
            for prompt in prompts
        ]
        for indices in split_rows(sizes, self.max_pack_tokens):
            rows: list[tuple[Sequence[int], Sequence[int]]] = []
            pairs: list[tuple[int, int]] = []
            probs: list[float] = []
            for prompt in (prompts[index] for index in indices):
                pairs += [(len(rows) + first, len(rows) + second) for first, second in prompt.pairs]
                probs += prompt.probs
                rows += [(prompt.prompt_ids, ids) for ids in prompt.response_ids]
            reward_R = _rewards(model, rows)
            first_M, second_M = torch.tensor(pairs, device=reward_R.device).unbind(1)
            yield reward_R[first_M] - reward_R[second_M], torch.tensor(probs, device=reward_R.device)

    @torch.no_grad()
    def _measure(self, model: Any, kept: Sequence[PromptComparisons]) -> dict[str, float]:
        """Accuracy (a reward tie counts 1/2) and likelihood on comparisons that are no ties; ln 2 is a coin's loss."""
        if not kept:
            return {}
        both = [torch.cat(values).cpu() for values in zip(*self._margins(model, kept), strict=True)]
        decided_M = both[1] != 0.5
        margin_M, prob_M = (values[decided_M] for values in both)
        if not len(margin_M):
            return {}
        agreement_M = (1 + margin_M.sign() * (prob_M - 0.5).sign()) / 2
        return {
            "round/reward_model_accuracy": float(agreement_M.mean()),
            "round/reward_model_loss": float(binary_cross_entropy_with_logits(margin_M, prob_M)),
        }


class _FittedReward(Scorer):
    """The reward of every response, by a fitted model on the policy's device."""

    def __init__(self, folder: Path, policy: PolicyHandle, max_pack_tokens: int) -> None:
        self._folder, self._policy, self._max_pack_tokens = folder, policy, max_pack_tokens
        self._model: Any = None

    @torch.no_grad()
    def score(self, candidates: Candidates) -> Tensor:
        """See `Scorer`; in nats, up to a constant of the prompt."""
        if self._model is None:
            weights = next(self._policy.model.parameters())
            loaded = AutoModelForSequenceClassification.from_pretrained(
                self._folder, dtype=weights.dtype, use_safetensors=True
            )
            self._model = loaded.to(weights.device).eval()
        rows = [
            (prompt_ids, ids)
            for prompt_ids, responses in zip(candidates.prompt_token_ids, candidates.token_ids, strict=True)
            for ids in responses
        ]
        rewards = [0.0] * len(rows)
        for indices in split_rows([len(prompt) + len(ids) for prompt, ids in rows], self._max_pack_tokens):
            batch = _rewards(self._model, [rows[index] for index in indices]).tolist()
            for index, reward in zip(indices, batch, strict=True):
                rewards[index] = reward
        remaining = iter(rewards)
        return pad(
            [[next(remaining) for _ in range(count)] for count in candidates.num_candidates],
            float("nan"),
            torch.float64,
        )

    def close(self) -> None:
        """Frees the model."""
        self._model = None


def _rewards(model: Any, rows: Iterable[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
    """[R] float32 rewards, read at each row's last token.

    Not by the model's own forward, which looks for the last token that is not the padding id: where a tokenizer pads
    with the terminator it would miss it.
    """
    prompts, responses = zip(*rows, strict=True)
    batch = TokenRows(prompt_ids=prompts, response_ids=responses)
    device = model.score.weight.device
    # Under causal attention no token sees the padding to its right, so that no mask is needed.
    hidden_RTH = model.base_model(input_ids=pad_rows(batch, device).input_ids_RT, use_cache=False).last_hidden_state
    last_R = torch.tensor(batch.lengths, device=device) - 1
    return model.score(hidden_RTH[torch.arange(len(last_R), device=device), last_R])[:, 0].float()
