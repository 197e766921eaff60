"""Diagnostics of a judge on a round whose verdicts and lengths are planted."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from sppo_lightning.functional.game_diagnostics import curl_share
from sppo_lightning.io.carriers import CANDIDATES, PROMPTS, TARGETS, preferences_table
from sppo_lightning.selfplay.insight import judge_insight
from sppo_lightning.selfplay.store import RoundFolder
from sppo_lightning.types import PreferenceMatrix, Prompt

CYCLE = [[0.5, 0.8, 0.2], [0.2, 0.5, 0.8], [0.8, 0.2, 0.5]]
LADDER = [[0.5, 0.7, 0.9], [0.3, 0.5, 0.7], [0.1, 0.3, 0.5]]


@pytest.fixture
def measure(tmp_path):
    """measure(games, lengths, judged) -> the diagnostics of a round of these."""

    def measure(games, lengths, judged=None):
        folder = RoundFolder(tmp_path / "rounds/round_000")
        prompts = [Prompt(prompt_id=f"p{b}", messages=({"role": "user", "content": "?"},)) for b in range(len(games))]
        rows = [
            {"prompt_id": p.prompt_id, "messages": list(p.messages), "metadata": "{}", "prompt_token_ids": [1]}
            for p in prompts
        ]
        folder.begin({"num_chunks": 1}, pa.Table.from_pylist(rows, PROMPTS))
        matrix = PreferenceMatrix(
            probs_BKJ=torch.tensor(games), judged_BKJ=judged, prompt_ids=[prompt.prompt_id for prompt in prompts]
        )
        folder.write_chunk("preferences/J/self", 0, preferences_table(prompts, matrix))
        candidates, targets = [], []
        for b, game in enumerate(games):
            for k, row in enumerate(game):
                key = {"prompt_id": f"p{b}", "candidate": k}
                # The first token tells responses of equal length apart.
                tokens = [k] + [0] * (lengths[b][k] - 1) if lengths[b][k] else []
                candidates.append(
                    key | {"token_ids": tokens, "text": "", "finish_reason": "stop", "sampler_logp": None}
                )
                rate = (sum(row) - 0.5) / (len(row) - 1)
                targets.append(key | {"win_rate": rate, "score": None, "trained": True, "weight": 1.0})
        folder.write_chunk("candidates", 0, pa.Table.from_pylist(candidates, CANDIDATES))
        folder.write_table("targets", pa.Table.from_pylist(targets, TARGETS))
        return judge_insight(folder, "J")

    return measure


def test_cycles_and_curl_are_those_of_the_games(measure):
    found = measure([CYCLE, LADDER, LADDER, LADDER], [[3, 4, 5]] * 4)
    assert found["round/cyclic_share"] == 1 / 4
    expected = np.mean([curl_share(np.array(game)) for game in (CYCLE, LADDER, LADDER, LADDER)])
    assert found["round/curl_share"] == pytest.approx(expected, abs=1e-6)


def test_winners_losers_and_the_pull_of_length(measure):
    found = measure([LADDER] * 3, [[9, 6, 3]] * 3)  # in the ladder win rates fall by .2 from response to response
    assert found["round/tie_share"] == 0
    assert (found["round/winner_tokens"], found["round/loser_tokens"]) == (9, 3)
    for end in ("", "_low", "_high"):
        assert found[f"round/length_correlation{end}"] == pytest.approx(1)


def test_lengths_are_compared_within_prompts(measure):
    # Longer prompts' answers have no higher win rates, but within each prompt length loses.
    found = measure([LADDER] * 3, [[1, 2, 3], [11, 12, 13], [101, 102, 103]])
    assert found["round/length_correlation"] == pytest.approx(-1)


def test_ties_are_counted_but_not_of_duplicates(measure):
    tied = [[0.5, 0.5, 0.9], [0.5, 0.5, 0.9], [0.1, 0.1, 0.5]]
    assert measure([tied], [[4, 4, 4]])["round/tie_share"] == pytest.approx(1 / 3)


def test_duplicates_are_no_ties(measure):
    tied = [[0.5, 0.5, 0.9], [0.5, 0.5, 0.9], [0.1, 0.1, 0.5]]
    assert measure([tied], [[0, 0, 4]])["round/tie_share"] == 0  # two empty responses are the same


def test_what_was_not_judged_is_left_out(measure):
    judged = torch.ones(2, 3, 3, dtype=torch.bool)
    judged[0, 0, 1] = judged[0, 1, 0] = False
    found = measure([CYCLE, LADDER], [[3, 4, 5]] * 2, judged)
    assert found["round/cyclic_share"] == 0


def test_two_responses_and_only_draws_say_nothing(measure):
    assert measure([[[0.5, 0.5], [0.5, 0.5]]], [[3, 4]]) == {"round/tie_share": 1.0}
