"""A part of the pairs, chosen without bias; prompts that cannot be judged are taken out and counted."""

import pytest
import torch

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.oracles import PreferenceOracle, ScoreToPreference, Shuffled, StyleGame, TargetLength
from sppo_lightning.oracles.judging import Judging
from sppo_lightning.oracles.noisy import Noisy
from sppo_lightning.oracles.round_judge import RoundJudge

from .examples import candidates
from .judges import Recorded

TEXTS = {f"question {n}": [f"{n}" * (k + 1) for k in range(5)] for n in range(20)}


def upper(judged_BKK):
    return judged_BKK & torch.ones(judged_BKK.shape[1:], dtype=torch.bool).triu(1)


def round_judge(oracle, texts=TEXTS, **settings):
    return RoundJudge(oracle, candidates(texts).prompts, **({"seed": 7} | settings))


@pytest.fixture
def judge(tmp_path):
    return Recorded(str(tmp_path / "queries.log"))


@pytest.mark.parametrize("share", [0.2, 0.35, 0.7])
@pytest.mark.parametrize("kind", ["pairs", "matrices", "composed"])
def test_exactly_the_share_is_asked_for(judge, share, kind):
    class Counted(StyleGame):
        num_pairs = 0

        def compare(self, candidates, opponents=None):
            assert opponents is not None, "one pair at a time"
            assert set(candidates.num_candidates) == {1}
            Counted.num_pairs += len(candidates)
            return super().compare(candidates, opponents)

    oracle = {"pairs": judge, "matrices": Counted(), "composed": Noisy(judge)}[kind]
    matrix = round_judge(oracle, share=share).compare(candidates(TEXTS))
    num_pairs = int(upper(matrix.judged_BKJ).sum())
    assert num_pairs == int(share * 20 * 10)
    assert (Counted.num_pairs if kind == "matrices" else len(judge.queries) / 2) == num_pairs
    full = (StyleGame() if kind == "matrices" else oracle).compare(candidates(TEXTS))
    judged = matrix.judged_BKJ
    torch.testing.assert_close(matrix.probs_BKJ[judged], full.probs_BKJ[judged])
    assert torch.equal(judged, judged.transpose(1, 2))


def test_the_choice_is_the_prompts_and_the_seeds_alone(judge):
    whole = round_judge(judge, share=0.35).compare(candidates(TEXTS)).judged_BKJ
    parts = round_judge(judge, share=0.35)
    everything = candidates(TEXTS)
    chunks = [parts.compare(everything.at(slice(start, start + 6))).judged_BKJ for start in (18, 0, 6, 12)]
    assert torch.equal(torch.cat([*chunks[1:], chunks[0]]), whole)
    assert not torch.equal(round_judge(judge, share=0.35, seed=8).compare(candidates(TEXTS)).judged_BKJ, whole)


def test_win_rates_over_the_judged_opponents_are_unbiased():
    answers = candidates({"q": ["Briefly, q", "Well, q", "Imagine: q", "q q", "q"]})
    full_KK = StyleGame().compare(answers).probs_BKJ[0]
    expected_K = (full_KK.sum(1) - 0.5) / 4
    found = []
    for seed in range(600):
        matrix = round_judge(StyleGame(), {"q": [""]}, share=0.3, seed=seed).compare(answers)
        others_KK = matrix.judged_BKJ[0] & ~torch.eye(5, dtype=torch.bool)
        found.append(torch.where(others_KK, matrix.probs_BKJ[0], 0).sum(1) / others_KK.sum(1))
    found_SK = torch.stack(found)
    error_K = found_SK.std(0) / 600**0.5
    assert bool(((found_SK.mean(0) - expected_K).abs() < 4 * error_K + 1e-6).all())


def test_opponents_are_met_in_part_too(judge):
    ours, theirs = candidates(TEXTS), candidates({q: row[:4] for q, row in TEXTS.items()})
    matrix = round_judge(judge, share=0.35).compare(ours, theirs)
    assert matrix.judged_BKJ.sum((1, 2)).tolist() == [7] * 20
    assert int(matrix.judged_BKJ.sum(2).min()) == 1, "every candidate meets somebody"


def test_judging_stops_where_best_and_worst_are_known(judge):
    texts = {q: [row[0] * 2**k for k in range(8)] for q, row in TEXTS.items()}
    matrix = round_judge(judge, texts, certainty=0.8).compare(candidates(texts))
    asked = upper(matrix.judged_BKJ).sum((1, 2))
    assert float(asked.float().mean()) < 0.9 * 28
    assert len(judge.queries) == 2 * int(asked.sum()), "no pair twice"
    assert bool(matrix.judged_BKJ[:, 7].all()), "the longest is the best, and has met everybody"
    assert bool(matrix.judged_BKJ[:, 0].float().mean() > 0.9)


def test_certainty_stays_within_the_share(judge):
    matrix = round_judge(judge, share=0.5, certainty=0.9).compare(candidates(TEXTS))
    assert int(upper(matrix.judged_BKJ).sum()) <= 100


@pytest.mark.parametrize(
    ("oracle", "says"),
    [
        (Shuffled(StyleGame()), "pair_share: a verdict of Shuffled-StyleGame depends on all of a prompt's responses"),
        (ScoreToPreference(TargetLength()), "pair_share: .* works response by response, .* save nothing"),
    ],
)
def test_judges_of_which_no_pair_can_be_left_out(oracle, says):
    Judging().check([oracle])
    with pytest.raises(ConfigError, match=says):
        Judging(pair_share=0.5).check([oracle])


# --- quarantine ------------------------------------------------------------------------------------------------------


def muted(texts, words):
    """Texts in which some prompts' responses cannot be judged."""
    return {q: [f"{text} mute" if q in words else text for text in row] for q, row in texts.items()}


@pytest.mark.parametrize("share", [1.0, 0.35])
def test_a_prompt_without_verdicts_is_taken_out_whole(judge, share):
    judge.mute = "mute"
    texts = muted(TEXTS, {"question 3", "question 11"})
    matrix = round_judge(judge, share=share, max_quarantined=0.1).compare(candidates(texts))
    gone = ~matrix.judged_BKJ.any(2).any(1)
    assert gone.nonzero().flatten().tolist() == [3, 11]


def test_a_few_pairs_without_a_verdict_are_only_unjudged(judge):
    judge.mute = "99999"  # one response of one prompt
    matrix = round_judge(judge, max_quarantined=0.0).compare(candidates(TEXTS))
    assert int((~matrix.judged_BKJ).sum()) == 8


def test_equal_texts_are_nobodys_verdict(judge):
    judge.mute = "y"
    texts = {"q": ["x", "x", "x", "x", "y"], "r": ["x", "x", "z", "zz", "y"]}
    matrix = round_judge(judge, texts).compare(candidates(texts))
    assert matrix.judged_BKJ.any(2).any(1).tolist() == [False, True]


def test_a_small_share_of_opponents_is_no_quarantine(judge):
    ours, theirs = (candidates({q: row[at] for q, row in TEXTS.items()}) for at in (slice(0, 2), slice(2, 3)))
    matrix = round_judge(judge, share=0.1).compare(ours, theirs)
    assert matrix.judged_BKJ.sum((1, 2)).tolist() == [1] * 20


def test_too_many_stop_the_run_and_keep_what_was_judged(judge, tmp_path):
    judge.mute = "mute"
    texts = muted(TEXTS, {"question 3", "question 11", "question 12", "question 19"})
    judging = Judging(max_quarantined=0.15)

    def start(judging):
        oracle = judging.keep(judge, tmp_path / "run", "round_000", lambda *_: None)
        return round_judge(oracle, max_quarantined=judging.max_quarantined).compare(candidates(texts))

    for _ in range(2):
        with pytest.raises(
            OracleError, match=r"4 of the round's 20 prompts \(p3, p11, p12, \.\.\.\); data\.judging\.max"
        ):
            start(judging)
        assert len(judge.queries) == 400
    start(Judging(max_quarantined=0.2))
    assert len(judge.queries) == 400
    judge.mute = ""
    assert bool(start(Judging(retry_failed=True)).judged_BKJ.all())
    assert len(judge.queries) == 400 + 4 * 20


def test_prompts_lost_before_a_kill_count(judge):
    judge.mute = "mute"
    texts = muted(TEXTS, {"question 3"})
    again = round_judge(judge, max_quarantined=0.05, quarantined=["p0"])
    with pytest.raises(OracleError, match=r"2 of the round's 20 prompts \(p0, p3\)"):
        again.compare(candidates(texts))


def test_the_oracle_is_reached_through_it(judge):
    class Closing(StyleGame):
        closed = False

        def close(self):
            self.closed = True

        def measured(self):
            return {"figure": 1.0}

        def for_round(self, earlier):
            return PreferenceOracle.for_round(StyleGame(quality_weight=0.0), earlier)

    oracle = Closing()
    judge = round_judge(oracle, share=0.5)
    assert judge.name == "Closing"
    assert judge.measured() == {"figure": 1.0}
    later = judge.for_round([])
    assert later.share == 0.5
    assert later.oracle.quality_weight == 0.0
    judge.close()
    assert oracle.closed
