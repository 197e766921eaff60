import torch

from sppo_lightning.oracles import ScoreToPreference, Shuffled, StyleGame, TargetLength

from .examples import candidates

PROMPT = "Is the price of the kettle fair?"
BEST_FIRST = ["Briefly, the price of the kettle is fair.", "Briefly, the price is fair", "Briefly, hm"]


def win_rates(probs_KK):
    return (probs_KK.sum(dim=1) - 0.5) / (len(probs_KK) - 1)


def test_the_verdicts_are_the_same_ones_in_another_place():
    answers = candidates({PROMPT: BEST_FIRST})
    straight = StyleGame().compare(answers).probs_BKJ[0]
    shuffled = Shuffled(StyleGame(), seed=1).compare(answers).probs_BKJ[0]
    torch.testing.assert_close(win_rates(shuffled).sort().values, win_rates(straight).sort().values)


def test_no_candidate_is_favoured():
    answers = candidates({PROMPT: BEST_FIRST})
    assert win_rates(StyleGame().compare(answers).probs_BKJ[0])[0] > 0.7
    seeds = range(600)
    mean_K = torch.stack([win_rates(Shuffled(StyleGame(), s).compare(answers).probs_BKJ[0]) for s in seeds]).mean(0)
    # One win rate has a standard deviation below 0.25, so 600 of them have a standard error below 0.0103.
    assert (mean_K - 0.5).abs().max() < 0.04


def test_no_opponent_is_favoured():
    ours, theirs = candidates({PROMPT: BEST_FIRST}), candidates({PROMPT: ["no", BEST_FIRST[0] + " Indeed."]})
    seeds = range(600)
    mean_KJ = torch.stack([Shuffled(StyleGame(), s).compare(ours, theirs).probs_BKJ[0] for s in seeds]).mean(0)
    assert mean_KJ.max() - mean_KJ.min() < 0.08


def test_the_seed_and_the_responses_decide():
    answers = candidates({PROMPT: [*BEST_FIRST, "no", "Well, no."]})
    oracles = [Shuffled(StyleGame(), seed) for seed in (0, 0, 1, 2, 3)]
    first, again, *others = [oracle.compare(answers).probs_BKJ for oracle in oracles]
    assert torch.equal(first, again)
    assert any(not torch.equal(first, other) for other in others)


def test_scores_move_with_the_verdicts():
    answers = candidates({PROMPT: ["a", "bbbbb", "ccccccccccc", "dddddddddddddd"]})
    matrix = Shuffled(ScoreToPreference(TargetLength(1)), seed=4).compare(answers)
    straight = ScoreToPreference(TargetLength(1)).compare(answers)
    assert sorted(matrix.scores_BK[0].tolist()) == sorted(straight.scores_BK[0].tolist())
    assert matrix.scores_BK[0].argsort().tolist() == win_rates(matrix.probs_BKJ[0]).argsort().tolist()


def test_the_name_tells_what_is_shuffled():
    assert Shuffled(StyleGame()).name != StyleGame().name
    assert "StyleGame" in Shuffled(StyleGame()).name
