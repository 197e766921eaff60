"""What a round of training changed in the very responses it was trained on, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from sppo_lightning.callbacks.measured import log_measured
from sppo_lightning.callbacks.round_end import RoundEndCallback, self_play_data

from sppo_lightning.functional.intervals import mean_interval
from sppo_lightning.functional.logps import token_logps
from sppo_lightning.functional.rows import TokenRows, split_rows
from sppo_lightning.io.files import write_json_atomic
from sppo_lightning.reporting.record import TOKEN_RATIOS
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.policies import ReachablePolicies
from sppo_lightning.training.run_folder import policy_name
from sppo_lightning.types import PolicyHandle


@dataclass(frozen=True, kw_only=True)
class _Response:
    """The best or the worst response to a prompt."""

    kind: str
    prompt: str
    win_rate: float
    prompt_ids: Sequence[int]
    token_ids: Sequence[int]


class TokenRatios(RoundEndCallback):
    """Measures log(pi_{t+1} / pi_t) on the best and the worst response to a few prompts of the round.

    Logs `round/winner_log_ratio` and `round/loser_log_ratio`, means over prompts in nats a response with 95 %
    intervals, from `eval/round_003/log_ratios.json`; and writes each token's log-ratio for the first few prompts to
    `eval/round_003/token_ratios.json`, which the report shows as heat maps.

    Args:
        num_prompts: prompts measured.
        num_shown: of them, prompts whose responses are kept token by token.
    """

    def __init__(self, num_prompts: int = 32, num_shown: int = 3) -> None:
        self.num_prompts = num_prompts
        self.num_shown = num_shown

    def on_round_end(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> None:
        """See the class."""
        log_measured(trainer, module, round_index, "log_ratios", lambda: self._measure(trainer, module, round_index))

    @torch.no_grad()
    def _measure(self, trainer: pl.Trainer, module: PolicyModule, round_index: int) -> dict[str, float]:
        responses = self._ends(module, round_index)
        if not responses:
            return {}
        budget = self_play_data(trainer).max_pack_tokens
        policies = ReachablePolicies(module, round_index + 1)
        new = _token_logps(module.policy_handle, responses, budget)
        old = _token_logps(policies.of_round(round_index), responses, budget)
        policies.close()
        ratios = [after - before for after, before in zip(new, old, strict=True)]
        shown = [
            {
                "kind": response.kind,
                "prompt": response.prompt,
                "win_rate": response.win_rate,
                "tokens": token_texts(module.tokenizer, response.token_ids),
                "log_ratios": ratio.tolist(),
            }
            for response, ratio in zip(responses, ratios, strict=True)
        ]
        folder = module.run_folder.evaluation(policy_name(round_index + 1))
        # Before the metrics: what has them has these, too.
        write_json_atomic(folder / TOKEN_RATIOS, shown[: 2 * self.num_shown], kind="token_ratios")
        measured = {}
        for kind in ("winner", "loser"):
            sums = [float(r.sum()) for r, response in zip(ratios, responses, strict=True) if response.kind == kind]
            interval = mean_interval(sums)
            measured[f"round/{kind}_log_ratio"] = interval.estimate
            if len(sums) > 1:
                measured[f"round/{kind}_log_ratio_low"] = interval.low
                measured[f"round/{kind}_log_ratio_high"] = interval.high
        return measured

    def _ends(self, module: PolicyModule, round_index: int) -> list[_Response]:
        """Winner and loser of the first prompts whose responses differ in win rate, one after the other."""
        folder = module.run_folder.round(round_index)
        candidates = folder.read_stage("candidates", folder.settings["num_chunks"])
        token_ids = {
            (row["prompt_id"], row["candidate"]): row["token_ids"]
            for row in candidates.select(["prompt_id", "candidate", "token_ids"]).to_pylist()
        }
        rates: dict[str, list[tuple[float, int]]] = {}
        for row in folder.read_table("targets").to_pylist():
            if row["win_rate"] == row["win_rate"]:  # not judged is NaN
                rates.setdefault(row["prompt_id"], []).append((row["win_rate"], row["candidate"]))
        found: list[_Response] = []
        for prompt in folder.read_prompts().to_pylist():
            judged = rates.get(prompt["prompt_id"], [(0.0, 0)])
            if max(judged)[0] > min(judged)[0]:
                found += [
                    _Response(
                        kind=kind,
                        prompt=prompt["messages"][-1]["content"],
                        win_rate=rate,
                        prompt_ids=prompt["prompt_token_ids"],
                        token_ids=token_ids[prompt["prompt_id"], candidate],
                    )
                    for kind, (rate, candidate) in (("winner", max(judged)), ("loser", min(judged)))
                ]
            if len(found) == 2 * self.num_prompts:
                break
        return found


def token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The piece of text that each token adds, special tokens by their names.

    A token that ends within a character adds nothing; the character stands with the token that completes it.
    """
    pieces, shown = [], 0
    for count in range(1, len(token_ids) + 1):
        text = tokenizer.decode(token_ids[:count], clean_up_tokenization_spaces=False)
        unfinished = text.endswith("\ufffd") and count < len(token_ids)
        pieces.append("" if unfinished else text[shown:])
        shown = shown if unfinished else len(text)
    return pieces


def _token_logps(policy: PolicyHandle, responses: Sequence[_Response], max_pack_tokens: int) -> list[torch.Tensor]:
    """[R][T] nats on the CPU."""
    logps: dict[int, torch.Tensor] = {}
    lengths = [len(response.prompt_ids) + len(response.token_ids) for response in responses]
    for indices in split_rows(lengths, max_pack_tokens):
        rows = TokenRows(
            prompt_ids=[responses[i].prompt_ids for i in indices],
            response_ids=[responses[i].token_ids for i in indices],
        )
        logps |= dict(zip(indices, (each.cpu() for each in token_logps(policy.model, rows)), strict=True))
    return [logps[i] for i in range(len(responses))]
