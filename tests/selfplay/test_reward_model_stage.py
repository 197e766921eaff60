"""The stage of a round in which a reward model takes the oracle's place."""

from __future__ import annotations

import pytest
import torch

from sppo_lightning.io import carriers
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.oracles.ragged import judged_mask, pad
from sppo_lightning.selfplay.opponents import History
from sppo_lightning.selfplay.reward_model import RewardModel
from sppo_lightning.selfplay.win_rates import win_rates
from sppo_lightning.types import PreferenceMatrix

from .test_round import data_files


class ShortIsGood(PreferenceOracle):
    """Reads its slope from the fit; the score is minus slope times the number of tokens."""

    def __init__(self, folder):
        self.slope = float((folder / "slope.txt").read_text())

    def compare(self, candidates, opponents=None):
        columns = opponents or candidates
        ours, theirs = (
            pad([[-self.slope * len(ids) for ids in group] for group in c.token_ids], 0.0, torch.float32)
            for c in (candidates, columns)
        )
        return PreferenceMatrix(
            probs_BKJ=torch.sigmoid(ours[:, :, None] - theirs[:, None, :]),
            judged_BKJ=judged_mask(candidates, columns),
            scores_BK=ours,
            self_play=opponents is None,
        )


class CountingModel(RewardModel):
    """Its slope is the number of comparisons it was fitted on, in thousands."""

    def __init__(self):
        self.fitted = []
        self.seeds = []

    def fit(self, comparisons, folder, *, policies, seed, open_bar):
        count = sum(len(entry.pairs) for entry in comparisons)
        self.fitted.append(count)
        self.seeds.append(seed)
        bar = open_bar(len(comparisons))
        bar.close()
        (folder / "slope.txt").write_text(str(count / 1000))
        return {"round/reward_model_accuracy": 0.75}

    def oracle(self, folder, policies):
        return ShortIsGood(folder)


def lengths(folder):
    return {
        (row["prompt_id"], row["candidate"]): len(row["token_ids"])
        for row in folder.read_stage("candidates", 3).to_pylist()
    }


def test_its_verdicts_count_and_the_oracle_s_are_kept(play):
    plain = play()
    model = CountingModel()
    modelled = play(reward_model=model)
    folder = modelled.folder
    assert model.fitted == [7 * 6]
    files, before = data_files(folder), data_files(plain.folder)
    kept = [name for name in before if name.startswith(("candidates/", "preferences/"))]
    assert {name: files[name] for name in kept} == {name: before[name] for name in kept}
    matrix = carriers.preferences_from(folder.read_stage("rewards/self", 3), self_play=True)
    targets = folder.read_table("targets").to_pylist()
    assert [row["win_rate"] for row in targets] == pytest.approx(win_rates(matrix).flatten().tolist())
    length = lengths(folder)
    for row in targets:
        others = [length[row["prompt_id"], k] for k in range(4) if k != row["candidate"]]
        expected = -0.042 * (length[row["prompt_id"], row["candidate"]] - sum(others) / 3)
        assert row["score"] == pytest.approx(expected, abs=1e-6)
    for pair in folder.read_table("pairs").to_pylist():
        assert length[pair["prompt_id"], pair["chosen"]] < length[pair["prompt_id"], pair["rejected"]]
    metrics = modelled.manifest["metrics"]
    assert metrics["round/reward_model_accuracy"] == 0.75
    assert metrics["time/reward_model"] > 0
    assert metrics["cost/oracle_queries"] == plain.manifest["metrics"]["cost/oracle_queries"], "rewards are no queries"


def test_opponents_and_draws_are_scored_too(play):
    folder = play(round_index=1, opponent=History(num_policies=2), log_z_draws=3, reward_model=CountingModel()).folder
    assert {path.name for path in (folder.path / "rewards").iterdir()} == {"self", "history_1", "draws"}
    draws = carriers.preferences_from(folder.read_stage("rewards/draws", 3), self_play=False)
    rates = [row["win_rates"] for row in folder.read_table("draws").to_pylist()]
    torch.testing.assert_close(torch.tensor(rates), win_rates(draws))


def test_earlier_rounds_are_learnt_from_and_each_round_has_a_seed_of_its_own(play):
    model = CountingModel()
    first = play(reward_model=model)
    play(reward_model=model, round_index=1, earlier_rounds=[first.folder])
    assert model.fitted == [42, 84]
    assert len(set(model.seeds)) == 2


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "point",
    [
        "before_stage:reward_model",
        "before_write:reward_model",
        "before_rename:reward_model",
        "after_rename:reward_model",
        "before_write:rewards",
        "after_rename:rewards",
        "before_write:targets",
    ],
)
def test_a_round_that_was_killed_ends_as_if_it_had_not_been(play, monkeypatch, point):
    whole = play(reward_model=CountingModel())
    died = []

    def die(name):
        if name == point and not died:
            died.append(name)
            raise Killed

    model = CountingModel()

    for module in ("io.files", "selfplay.round"):
        monkeypatch.setattr(f"sppo_lightning.{module}.crash_point", die)
    with pytest.raises(Killed):
        play(reward_model=model)
    folder = max((path for path in whole.folder.path.parent.iterdir()), key=lambda path: path.stat().st_ctime_ns)
    assert folder != whole.folder.path
    resumed = play(type(whole.folder)(folder), reward_model=model)
    assert died == [point]
    assert data_files(resumed.folder) == data_files(whole.folder)
    assert (folder / "reward_model" / "slope.txt").read_text() == "0.042"
    times = 2 if point == "before_rename:reward_model" else 1
    assert len(model.fitted) == times, "what is whole is not fitted again"
