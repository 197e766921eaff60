"""What a round measured, against counts by hand."""

from dataclasses import replace

import pytest
import torch

from sppo_lightning.selfplay.opponents import History, SelfPlay
from sppo_lightning.selfplay.pairing import BestWorst

from .conftest import SeedEngine, TokenGame


class Fixed(SeedEngine):
    """Four responses of 1, 2, 3 and 2 tokens, the second and fourth equal, the third truncated."""

    def generate(self, prompts, seeds_BK):
        token_ids = [[[3], [4, 4], [5, 5, 5], [4, 4]][: len(seeds)] for seeds in seeds_BK]
        return replace(
            super().generate(prompts, seeds_BK),
            token_ids=token_ids,
            finish_reasons=[["stop", "stop", "length", "stop"][: len(seeds)] for seeds in seeds_BK],
        )


class Sparse(TokenGame):
    """Leaves the comparison of 0 and 1 out."""

    def compare(self, candidates, opponents=None):
        matrix = super().compare(candidates, opponents)
        judged = matrix.judged_BKJ.clone()
        judged[:, 0, 1] = False
        if opponents is None:
            judged[:, 1, 0] = False
        return replace(matrix, judged_BKJ=judged)


class Silent(TokenGame):
    """Gives no scores."""

    def compare(self, candidates, opponents=None):
        return replace(super().compare(candidates, opponents), scores_BK=None)


def test_names_and_values(play):
    metrics = dict(play(engine=Fixed(), oracle=Sparse(), pairing=BestWorst()).manifest["metrics"])
    times = {name: metrics.pop(name) for name in list(metrics) if name.startswith("time/")}
    assert times.pop("time/overlap") == 0, "nothing works beside anything here"
    assert set(times) == {"time/generate", "time/judge", "time/reference"}
    assert all(0 < seconds < 60 for seconds in times.values())
    assert metrics == {
        "round/mean_response_tokens": 2.0,
        "round/truncated_share": pytest.approx(1 / 4),
        "round/duplicate_share": pytest.approx(1 / 4),
        "round/skipped_prompts": 0,
        "round/quarantined": 0,
        "round/trained_responses": 14,
        "cost/oracle_queries": 7 * 5,
        "cost/generated_tokens": 7 * 8,
        "round/mean_score": pytest.approx((3 + 8 + 15 + 8) / 4),
    }


def test_other_opponents_cost_too(play):
    metrics = play(engine=Fixed(), oracle=Sparse(), opponent=History(), round_index=1).manifest["metrics"]
    assert metrics["cost/generated_tokens"] == 7 * (8 + 3)
    assert metrics["cost/oracle_queries"] == 7 * (5 + 4 * 2 - 1)
    assert metrics["round/mean_response_tokens"] == 2.0, "of pi_t's own responses"
    assert "round/mean_score" not in play(oracle=Silent()).manifest["metrics"]


def test_prompts_that_teach_nothing_are_counted(play):
    class AllTruncated(Fixed):
        def generate(self, prompts, seeds_BK):
            candidates = super().generate(prompts, seeds_BK)
            reasons = [
                ["length"] * 4 if prompt.prompt_id in ("p1", "p6") else own
                for prompt, own in zip(prompts, candidates.finish_reasons, strict=True)
            ]
            return replace(candidates, finish_reasons=reasons)

    metrics = play(engine=AllTruncated(), truncated="drop").manifest["metrics"]
    assert metrics["round/skipped_prompts"] == 2
    assert metrics["round/trained_responses"] == 5 * 3
    assert metrics["round/truncated_share"] == pytest.approx((2 * 4 + 5) / 28)


class Speechless(TokenGame):
    """Nothing of p2 counts as judged; what it measured has its own names."""

    def compare(self, candidates, opponents=None):
        matrix = super().compare(candidates, opponents)
        lost = torch.tensor([prompt.prompt_id == "p2" for prompt in candidates.prompts])
        return replace(matrix, judged_BKJ=matrix.judged_BKJ & ~lost[:, None, None])

    def measured(self):
        return {"position_bias": 0.1, "cost/usd": 0.25}


@pytest.mark.parametrize("opponent", [SelfPlay(), History()])
def test_a_quarantined_prompt_is_listed_counted_and_not_trained_on(play, opponent):
    round_ = play(oracle=Speechless(), opponent=opponent, round_index=1)
    assert round_.manifest["metrics"]["round/quarantined"] == 1
    assert round_.folder.read_table("quarantined").to_pylist() == [{"prompt_id": "p2", "prompt": "word " * 3}]
    trained = {row["prompt_id"] for row in round_.folder.read_table("targets").to_pylist() if row["trained"]}
    assert "p2" not in trained
    assert len(trained) > 3
    assert not play(oracle=TokenGame(), opponent=opponent, round_index=1).folder.has_table("quarantined")


def test_what_the_oracle_measured_is_the_rounds(play):
    metrics = play(oracle=Speechless()).manifest["metrics"]
    assert (metrics["round/position_bias"], metrics["cost/usd"]) == (0.1, 0.25)
