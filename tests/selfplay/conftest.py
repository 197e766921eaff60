"""Members of a round that need no model: what they do is a function of prompt and seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sppo_lightning.engines.base import Engine
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import judged_mask, pad
from sppo_lightning.selfplay.opponents import SelfPlay
from sppo_lightning.selfplay.pairing import All
from sppo_lightning.selfplay.players import RoundPlayers, RoundSettings
from sppo_lightning.selfplay.round import play_round
from sppo_lightning.selfplay.store import RoundFolder
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt, SamplingConfig


class SeedEngine(Engine):
    """Answers with one to six tokens decided by the seed; one response in four is truncated."""

    def __init__(self) -> None:
        self.sampling = SamplingConfig(max_new_tokens=6)
        self.opened: list[str] = []
        self.answered: list[str] = []
        self.policy: Any = None

    def open(self, policy):
        assert self.policy is None, "opened twice"
        self.policy = policy
        self.opened.append(policy.name)

    def close(self):
        self.policy = None

    def generate(self, prompts, seeds_BK):
        self.answered += [prompt.prompt_id for prompt in prompts]
        ids = [[[seed // 7**i % 7 + 3 for i in range(seed % 6 + 1)] for seed in seeds] for seeds in seeds_BK]
        return Candidates(
            prompts=prompts,
            prompt_token_ids=[encode(prompt) for prompt in prompts],
            token_ids=ids,
            texts=[[" ".join(map(str, tokens)) for tokens in group] for group in ids],
            finish_reasons=[["length" if seed % 4 == 0 else "stop" for seed in seeds] for seeds in seeds_BK],
            sampler_logps=[[-float(seed % 13) for seed in seeds] for seeds in seeds_BK],
            policy=self.policy.name,
            sampling=self.sampling,
        )


class TokenGame(PreferenceOracle):
    """P = 1/2 + 0.4 sin(s - s'), s the sum of a response's tokens; the scores are s."""

    def __init__(self) -> None:
        self.judged: list[str] = []

    def compare(self, candidates, opponents=None):
        self.judged += [prompt.prompt_id for prompt in candidates.prompts]
        columns = opponents or candidates
        rows_BK, columns_BJ = self._scores(candidates), self._scores(columns)
        return PreferenceMatrix(
            probs_BKJ=(0.5 + 0.4 * torch.sin(rows_BK[:, :, None] - columns_BJ[:, None, :])).float(),
            judged_BKJ=judged_mask(candidates, columns),
            scores_BK=rows_BK.float(),
            self_play=opponents is None,
        )

    def _scores(self, candidates):
        return pad([[float(sum(ids)) for ids in group] for group in candidates.token_ids], math.nan, torch.float64)


class NamedPolicies:
    """Policies that are nothing but their names."""

    def named(self, name):
        return SimpleNamespace(name=name)

    def stored(self, source):
        return SimpleNamespace(name=source)


class OneProcess:
    rank, size = 0, 1

    def barrier(self):
        pass

    def broadcast(self, value):
        return value


def encode(prompt: Prompt) -> list[int]:
    return [1, *(3 + len(word) for word in prompt.text.split())]


def fake_logps(name: str, rows: Any) -> torch.Tensor:
    """A number that tells which policy and which row it belongs to."""
    shift = {"previous": 0.0, "anchor": 100.0, "history/1": 200.0}[name]
    pairs = zip(rows.prompt_ids, rows.response_ids, strict=True)
    return torch.tensor([-shift - sum(prompt) / 8 - sum(response) for prompt, response in pairs])


@pytest.fixture
def prompts() -> list[Prompt]:
    """Seven prompts, so that chunks of three leave one over."""
    return [
        Prompt(prompt_id=f"p{b}", messages=({"role": "user", "content": "word " * (b + 1)},), metadata={"b": b})
        for b in range(7)
    ]


@pytest.fixture
def play(tmp_path: Path, prompts: list[Prompt]) -> Callable[..., SimpleNamespace]:
    """play(**members) plays a round of the seven prompts and returns folder, engine, oracle and manifest."""

    def play(
        folder: RoundFolder | None = None,
        *,
        num_candidates: int = 4,
        chunk_prompts: int = 3,
        round_index: int = 0,
        needs: tuple[str, ...] = ("previous",),
        prompts: list[Prompt] = prompts,
        prompt_token_ids: list[list[int]] | None = None,
        settings: RoundSettings | None = None,
        **members: Any,
    ) -> SimpleNamespace:
        folder = folder or RoundFolder(tmp_path / f"round_{len(list(tmp_path.iterdir())):03d}")
        members = {
            "engine": members.get("engine") or SeedEngine(),
            "oracle": TokenGame(),
            "opponent": SelfPlay(),
            "pairing": All(),
            "opponent_engine": members.get("engine") or SeedEngine(),
            "policies": NamedPolicies(),
            "log_z_draws": 0,
            "mismatched": False,
            "shared": (),
            "reference_logps": fake_logps,
            "truncated": "mask",
            "self_comparison": False,
            "world": OneProcess(),
            "progress": NullProgress(),
        } | members
        play_round(
            folder,
            round_index=round_index,
            global_step=5,
            prompts=prompts,
            prompt_token_ids=prompt_token_ids or [encode(prompt) for prompt in prompts],
            settings=settings
            or RoundSettings(
                seed=11,
                num_candidates=num_candidates,
                num_opponent_candidates=2,
                chunk_prompts=chunk_prompts,
                num_chunks=-(-len(prompts) // chunk_prompts),
            ),
            players=RoundPlayers(needs=needs, **members),
        )
        return SimpleNamespace(
            folder=folder, engine=members["engine"], oracle=members["oracle"], manifest=folder.manifest
        )

    return play
