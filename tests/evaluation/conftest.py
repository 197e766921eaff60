"""Policies that say rock, paper or scissors with known probabilities: everything measured has a known truth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sppo_lightning.engines.base import Engine
from sppo_lightning.errors import EngineError
from sppo_lightning.evaluation.contestants import Contestant, Member
from sppo_lightning.evaluation.responses import ResponseBank
from sppo_lightning.evaluation.verdicts import VerdictBank
from sppo_lightning.functional.game_zoo import rps
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.types import Candidates, PreferenceMatrix, Prompt, SamplingConfig

WORDS = ("rock", "paper", "scissors")
GAME = rps(0.9, 0.7, 0.8)  # rock over paper here, paper over scissors, scissors over rock
MIXES = {
    "start": (0.5, 0.3, 0.2),
    "cornered": (0.0, 0.0, 1.0),
    "even": (2 / 9, 3 / 9, 4 / 9),
    "papery": (0.05, 0.9, 0.05),
}


class Speaker(Engine):
    """Says one of the words, its seed deciding which; dies when `dies_after` calls were answered."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.sampling, self.asked, self.calls, self.is_open = SamplingConfig(), [], 0, False
        self.dies_after = dies_after

    def open(self, policy):
        self.mix, self.is_open = MIXES[policy.name], True

    def close(self):
        self.is_open = False

    def generate(self, prompts, seeds_BK):
        if self.dies_after is not None and self.calls >= self.dies_after:
            raise EngineError("out of order")
        self.calls += 1
        self.asked += [
            (prompt.prompt_id, seed) for prompt, seeds in zip(prompts, seeds_BK, strict=True) for seed in seeds
        ]
        words_BK = [[int(np.random.default_rng(seed).choice(3, p=self.mix)) for seed in seeds] for seeds in seeds_BK]
        return Candidates(
            prompts=prompts,
            prompt_token_ids=[[1]] * len(prompts),
            token_ids=[[[word] for word in words] for words in words_BK],
            texts=[[WORDS[word] for word in words] for words in words_BK],
            finish_reasons=[["stop"] * len(words) for words in words_BK],
            policy="speaker",
            sampling=self.sampling,
        )


class Referee(PreferenceOracle):
    """Knows the game; gives no verdict on the prompts in `silent`."""

    dies_after: int | None = None  # no argument: those tell judges apart

    def __init__(self, silent: tuple[str, ...] = ()) -> None:
        self.silent, self._calls = silent, 0

    @property
    def num_calls(self) -> int:
        return self._calls

    def compare(self, candidates, opponents=None):
        if self.dies_after is not None and self._calls >= self.dies_after:
            raise EngineError("the judge is out of order")
        self._calls += 1
        rows, columns = (
            torch.tensor([[WORDS.index(text) for text in texts] for texts in side.texts])
            for side in (candidates, opponents)
        )
        judged_B = torch.tensor([prompt.prompt_id not in self.silent for prompt in candidates.prompts])
        probs_BKJ = torch.tensor(GAME)[rows[:, :, None], columns[:, None, :]].float()
        return PreferenceMatrix(
            probs_BKJ=probs_BKJ,
            judged_BKJ=judged_B[:, None, None].expand_as(probs_BKJ).clone(),
            self_play=False,
        )


class Bars:
    """What a person would have been shown."""

    def __init__(self) -> None:
        self.shown: list[list] = []

    def __call__(self, stage, total, unit):
        bar = [stage, total, unit, 0]
        self.shown.append(bar)
        return SimpleNamespace(update=lambda n: bar.__setitem__(3, bar[3] + n), close=lambda: None)


def member(name: str) -> Member:
    return Member(name=name, source=name)


def single(name: str) -> Contestant:
    return Contestant.of(member(name))


def mixture(**weights: float) -> Contestant:
    return Contestant(name="mixture", members=tuple((member(name), weight) for name, weight in weights.items()))


@pytest.fixture
def world(tmp_path):
    """world(num_prompts=, engine=, judge=, seed=) -> its banks in one folder, each call like a new process."""

    def world(num_prompts=40, engine=None, judge=None, seed=0, only=None):
        prompts = [
            Prompt(prompt_id=f"p{b}", messages=({"role": "user", "content": f"Your move {b}?"},))
            for b in range(num_prompts)
        ]
        tokenizer = SimpleNamespace(
            chat_template="given", apply_chat_template=lambda messages, **_: {"input_ids": [1, len(messages)]}
        )
        engine, judge, bars = engine or Speaker(), judge or Referee(), Bars()
        bank = ResponseBank(
            tmp_path / "eval",
            prompts=prompts,
            engine=engine,
            open_policy=lambda m: SimpleNamespace(name=m.name, tokenizer=tokenizer),
            seed=seed,
            progress=bars,
        )
        return SimpleNamespace(
            bank=bank, verdicts=VerdictBank(bank, judge, only), engine=engine, judge=judge, bars=bars, prompts=prompts
        )

    return world


@pytest.fixture
def table():
    """The names of this file that tests use."""
    return SimpleNamespace(
        single=single, mixture=mixture, member=member, mixes=MIXES, game=GAME, speaker=Speaker, referee=Referee
    )
