"""A pair of policies is judged once, from either side, and a kill loses one chunk."""

from dataclasses import replace

import pytest
import torch

from sppo_lightning.errors import EngineError, OracleError
from sppo_lightning.evaluation import verdicts
from sppo_lightning.evaluation.verdicts import Samples, VerdictBank, win_rates_by_prompt
from sppo_lightning.oracles import ScoreToPreference, Shuffled, StyleGame, TargetLength
from sppo_lightning.types import PreferenceMatrix


def samples(table, name, count=4, first=0):
    return Samples(member=table.member(name), count=count, first=first)


def test_both_directions_are_one_computation(world, table):
    here = world()
    forth = here.verdicts.compare(samples(table, "start", 3), samples(table, "even", 5))
    back = here.verdicts.compare(samples(table, "even", 5), samples(table, "start", 3))
    assert here.judge.num_calls == 1
    torch.testing.assert_close(forth.probs_BKJ + back.probs_BKJ.transpose(1, 2), torch.ones(40, 3, 5))
    expected = here.judge.compare(
        here.bank.responses(table.single("start"), 3), here.bank.responses(table.single("even"), 5)
    )
    torch.testing.assert_close(forth.probs_BKJ, expected.probs_BKJ)
    later = world()
    torch.testing.assert_close(
        later.verdicts.compare(samples(table, "start", 3), samples(table, "even", 5)).probs_BKJ, forth.probs_BKJ
    )
    assert later.judge.num_calls == 0


def test_many_comparisons_share_a_bar_and_skip_what_is_known(world, table):
    here = world()
    here.verdicts.compare(samples(table, "start"), samples(table, "even"))
    here.bars.shown.clear()
    pairs = [
        (samples(table, a), samples(table, b)) for a, b in (("even", "start"), ("start", "papery"), ("papery", "start"))
    ]
    here.verdicts.judge(pairs)
    assert ["judging held-out responses", 40 * 16, "pairs", 40 * 16] in here.bars.shown
    assert sum(bar[0].startswith("judging") for bar in here.bars.shown) == 1


def test_a_kill_in_the_middle_loses_one_chunk(world, table, monkeypatch):
    monkeypatch.setattr(verdicts, "_PAIRS_A_CHUNK", 160)  # 10 prompts
    killed = world()
    killed.judge.dies_after = 3
    with pytest.raises(EngineError):
        killed.verdicts.compare(samples(table, "start"), samples(table, "even"))
    resumed = world()
    resumed.verdicts.compare(samples(table, "start"), samples(table, "even"))
    assert resumed.judge.num_calls == 1


def test_only_the_first_prompts_are_judged(world, table):
    few = world(only=7)
    assert few.verdicts.compare(samples(table, "start"), samples(table, "even")).probs_BKJ.shape == (7, 4, 4)
    assert len(few.engine.asked) == 2 * 7 * 4


def test_judges_that_differ_never_share_verdicts(world):
    bank = world().bank
    judges = [
        StyleGame(),
        StyleGame(quality_weight=0.0),
        Shuffled(StyleGame()),
        Shuffled(StyleGame(quality_weight=0.0)),
        ScoreToPreference(TargetLength()),
        ScoreToPreference(TargetLength(), scale=2.0),
    ]
    folders = {VerdictBank(bank, judge)._folder for judge in judges}
    assert len(folders) == len(judges)
    assert VerdictBank(bank, StyleGame())._folder in folders


def test_a_judge_that_answers_about_something_else_is_refused(world, table):
    class Short(table.referee):
        def compare(self, candidates, opponents=None):
            return PreferenceMatrix(probs_BKJ=torch.full((len(candidates), 1, 4), 0.5), self_play=False)

    with pytest.raises(OracleError, match=r"shape \(40, 1, 4\).*must be \(40, 4, 4\)"):
        world(judge=Short()).verdicts.compare(samples(table, "start"), samples(table, "even"))


@pytest.fixture
def silent(table):
    """A judge without verdicts on the prompts in `on`."""

    class Silent(table.referee):
        on = frozenset()

        def compare(self, candidates, opponents=None):
            matrix = super().compare(candidates, opponents)
            heard_B = torch.tensor([prompt.prompt_id not in self.on for prompt in candidates.prompts])
            return replace(matrix, judged_BKJ=heard_B[:, None, None].expand_as(matrix.probs_BKJ).clone())

    return Silent()


def test_prompts_without_a_verdict_are_said_once(world, table, silent):
    here = world(judge=silent)
    silent.on = {prompt.prompt_id for prompt in here.bank.prompts[:3]}
    with pytest.warns(UserWarning, match="no verdict on .* at 3 of 40 held-out prompts; they are left out") as said:
        found = [here.verdicts.compare(samples(table, "start"), samples(table, name)) for name in ("even", "papery")]
    assert len(said) == 1
    assert [len(win_rates_by_prompt(matrix)) for matrix in found] == [37, 37]


def test_without_any_verdict_nothing_is_measured_or_kept(world, table, silent):
    here = world(judge=silent)
    silent.on = {prompt.prompt_id for prompt in here.bank.prompts}
    for _ in range(2):
        with pytest.raises(OracleError, match=r"no verdict on even against start at any of the 40 .*retry_failed true"):
            here.verdicts.compare(samples(table, "start"), samples(table, "even"))
    silent.on = frozenset()
    assert len(win_rates_by_prompt(here.verdicts.compare(samples(table, "start"), samples(table, "even")))) == 40


def test_only_judged_comparisons_are_counted():
    probs_BKJ = torch.tensor([[[0.9, 0.1]], [[0.6, torch.nan]], [[torch.nan, torch.nan]]])
    matrix = PreferenceMatrix(probs_BKJ=probs_BKJ, judged_BKJ=~probs_BKJ.isnan(), self_play=False)
    found = [values.tolist() for values in win_rates_by_prompt(matrix)]
    assert found == [[pytest.approx(0.9), pytest.approx(0.1)], [pytest.approx(0.6)]]
