"""Every pair is judged once, whoever asks and however often; the budget is never exceeded."""

import os
import signal
import time
from collections import Counter
from itertools import combinations

import pytest
import torch

from sppo_lightning.errors import BudgetError, ConfigError, OracleError
from sppo_lightning.oracles import (
    GeneralPreference,
    PairRM,
    PreferenceOracle,
    RewardModel,
    Scorer,
    ScoreToPreference,
    StyleGame,
    TargetLength,
)
from sppo_lightning.oracles.identity import identity
from sppo_lightning.oracles.judging import Judging
from sppo_lightning.oracles.noisy import Noisy
from sppo_lightning.oracles.pair_logits import PairLogitOracle
from sppo_lightning.oracles.ragged import judged_mask
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.types import PreferenceMatrix

from .examples import candidates
from .judges import Recorded

TEXTS = {"q": ["a", "bb", "ccc", "dddd"], "r": ["a", "eeeee"]}
NUM_PAIRS = 6 + 1


@pytest.fixture
def ask(tmp_path):
    """ask(oracle, run, **judging) -> the oracle as that run asks it."""

    def ask(oracle, run="run", **judging):
        return Judging(**judging).keep(oracle, tmp_path / "runs" / run, "round_000", NullProgress())

    return ask


@pytest.fixture
def judge(tmp_path):
    return Recorded(str(tmp_path / "queries.log"))


def test_a_verdict_is_the_judges_own_and_asked_for_once(ask, judge):
    expected = judge.compare(candidates(TEXTS))
    judge_log = len(judge.queries)
    first = ask(judge).compare(candidates(TEXTS))
    torch.testing.assert_close(first.probs_BKJ, expected.probs_BKJ)
    assert len(judge.queries) == judge_log + 2 * NUM_PAIRS
    # Another run, other places, the other side: the same pairs.
    other = ask(Recorded(judge.log, address="elsewhere"), run="another")
    mirrored = other.compare(candidates({"q": TEXTS["q"][::-1], "r": TEXTS["r"]}))
    torch.testing.assert_close(mirrored.probs_BKJ[0], expected.probs_BKJ[0].flip(0, 1))
    against = other.compare(candidates({"q": ["a"]}), candidates({"q": ["bb", "ccc"]}))
    torch.testing.assert_close(against.probs_BKJ[0, 0], expected.probs_BKJ[0, 0, 1:3])
    assert len(judge.queries) == judge_log + 2 * NUM_PAIRS


def test_another_judge_or_question_is_asked(ask, judge):
    ask(judge).compare(candidates({"q": ["a", "bb"]}))
    ask(Recorded(judge.log, slope=0.02)).compare(candidates({"q": ["a", "bb"]}))
    ask(judge).compare(candidates({"another question": ["a", "bb"]}))
    ask(judge).compare(candidates({"q": ["a", "bb"]}, answer="a reference that a judge may read"))
    assert len(judge.queries) == 8
    ask(judge, cache="off").compare(candidates({"q": ["a", "bb"]}))
    assert len(judge.queries) == 10


def test_a_judge_is_its_files_and_its_code(tmp_path, judge, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(b"1")
    before = identity(Recorded(judge.log, slope=str(tmp_path / "model")))
    assert identity(Recorded("elsewhere.log", slope=str(tmp_path / "model"))) == before
    weights.write_bytes(b"22")
    assert identity(Recorded(judge.log, slope=str(tmp_path / "model"))) != before
    assert identity(Recorded(judge.log, slope="~/model")) != identity(Recorded(judge.log, slope=str(weights.parent)))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert identity(Recorded(judge.log, slope="~/model")) == identity(Recorded(judge.log, slope=str(weights.parent)))
    assert identity(Recorded(judge.log, slope="~ words")) != identity(Recorded(judge.log, slope="~ other words"))
    (tmp_path / "words").mkdir()
    assert identity(TargetLength(3)) != identity(TargetLength(4))


@pytest.mark.parametrize("oracle", [PairRM, RewardModel, GeneralPreference])
def test_a_judge_is_the_precision_that_auto_comes_to(oracle, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert identity(oracle("m")) == identity(oracle("m", dtype="float32"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert identity(oracle("m")) == identity(oracle("m", device="cuda:1")) == identity(oracle("m", dtype="bfloat16"))
    assert identity(oracle("m", device="cpu")) == identity(oracle("m", dtype="float32")) != identity(oracle("m"))


def test_what_costs_nothing_is_not_kept(ask, tmp_path):
    style, scores = StyleGame(), ScoreToPreference(TargetLength())
    assert ask(style) is style
    assert ask(scores) is scores
    assert not (tmp_path / "runs").exists()


def test_other_weights_over_the_same_judge_ask_nobody(ask, judge):
    one = ask(Noisy(judge, flip=0.5)).compare(candidates(TEXTS))
    assert len(judge.queries) == 2 * NUM_PAIRS
    other = ask(Noisy(judge, flip=0.5, seed=1)).compare(candidates(TEXTS))
    assert len(judge.queries) == 2 * NUM_PAIRS
    assert not torch.equal(one.probs_BKJ, other.probs_BKJ)


class Marks(Scorer):
    """Scores by length, and counts."""

    def __init__(self) -> None:
        self.scored: list[str] = []

    def score(self, candidates):
        self.scored += [text for row in candidates.texts for text in row]
        K = max(candidates.num_candidates)
        return torch.tensor([[*map(float, map(len, row)), *[torch.nan] * (K - len(row))] for row in candidates.texts])


def test_a_response_is_scored_once(ask):
    marks = Marks()
    expected = ScoreToPreference(marks).compare(candidates(TEXTS))
    marks.scored.clear()
    first = ask(ScoreToPreference(marks)).compare(candidates(TEXTS))
    torch.testing.assert_close(first.probs_BKJ, expected.probs_BKJ)
    torch.testing.assert_close(first.scores_BK, expected.scores_BK, equal_nan=True)
    ask(ScoreToPreference(marks, scale=3.0)).compare(candidates(TEXTS))
    assert Counter(marks.scored) == {"a": 2, "bb": 1, "ccc": 1, "dddd": 1, "eeeee": 1}, "a answers two questions"


class Whole(PreferenceOracle):
    """A judge of whole prompts with a gap and scores, and counts the prompts."""

    gives_scores = True
    gap = True

    def __init__(self) -> None:
        self.num_prompts = 0

    def compare(self, candidates, opponents=None):
        self.num_prompts += len(candidates)
        judged_BKJ = judged_mask(candidates, opponents or candidates)
        judged_BKJ[0, 0, 1] = judged_BKJ[0, 1, 0] = not self.gap
        lengths = [[float(len(text)) for text in row] for row in candidates.texts]
        K = max(map(len, lengths))
        return PreferenceMatrix(
            probs_BKJ=torch.full(judged_BKJ.shape, 0.5),
            judged_BKJ=judged_BKJ,
            scores_BK=torch.tensor([[*row, *[torch.nan] * (K - len(row))] for row in lengths]),
            self_play=opponents is None,
        )


def test_any_other_judge_is_kept_by_prompt(ask):
    whole = Whole()
    expected = whole.compare(candidates(TEXTS))
    for run in ("run", "another"):
        matrix = ask(whole, run=run).compare(candidates(TEXTS))
        assert torch.equal(matrix.judged_BKJ, expected.judged_BKJ)
        torch.testing.assert_close(matrix.scores_BK, expected.scores_BK, equal_nan=True)
        assert whole.num_prompts == 4
    ask(whole).compare(candidates(TEXTS), candidates(TEXTS))
    assert whole.num_prompts == 6


class Ranked(PairLogitOracle):
    """Log-odds by length; every response is compared with all others."""

    def __init__(self) -> None:
        super().__init__("bradley_terry")
        self.num_queries = 0

    def logits(self, pairs):
        self.num_queries += len(pairs)
        return torch.tensor([float(len(pair.first) - len(pair.second)) for pair in pairs])


def test_a_judge_that_compares_opponents_with_each_other_is_booked_for_it(ask):
    ours, theirs = candidates({"q": ["a", "bb"]}), candidates({"q": ["ccc", "dddd", "eeeee"]})
    ranked = Ranked()
    with pytest.raises(BudgetError):
        ask(ranked, max_queries=19).compare(ours, theirs)
    assert ranked.num_queries == 0
    ask(ranked, run="another", max_queries=20).compare(ours, theirs)
    assert ranked.num_queries == 20  # both orders of 5 * 4 / 2 pairs


def test_no_verdict_is_kept_too_until_it_is_asked_for_again(ask, judge):
    mute = Recorded(judge.log, mute="bb")
    for _ in range(2):
        matrix = ask(mute).compare(candidates({"q": ["a", "bb", "ccc"]}))
        assert matrix.judged_BKJ[0].tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert len(judge.queries) == 6
    again = ask(judge, retry_failed=True)
    assert bool(again.compare(candidates({"q": ["a", "bb", "ccc"]})).judged_BKJ.all())
    assert len(judge.queries) == 6 + 4, "only where there was none"


# --- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judging", [{"max_queries": 9}, {"max_usd": 0.99, "usd_per_query": 0.11}])
def test_judging_stops_before_the_query_that_exceeds_the_limit(ask, judge, judging):
    name, value = next(iter(judging.items()))
    for _ in range(2):
        with pytest.raises(BudgetError, match=rf"data\.judging\.{name}={value}: .* the same command goes on"):
            ask(judge, block_pairs=3, **judging).compare(candidates(TEXTS))
        assert len(judge.queries) == 8, "a fifth pair would be ten"
    ask(judge, **{**judging, name: 2 * value}).compare(candidates(TEXTS))
    assert len(judge.queries) == 2 * NUM_PAIRS


def test_a_limit_is_the_runs(ask, judge):
    with pytest.raises(BudgetError):
        ask(judge, max_queries=2).compare(candidates(TEXTS))
    with pytest.raises(BudgetError):
        ask(judge, run="another", max_queries=2).compare(candidates(TEXTS))
    assert len(judge.queries) == 4


@pytest.mark.parametrize("block_pairs", [1, 3, 256])
def test_a_judge_that_counts_its_dollars_is_booked_at_its_most_and_corrected(ask, judge, block_pairs):
    class Metered(Recorded):
        usd_per_query = 0.5

        @property
        def usd(self):
            return 0.1 * len(self.queries)

    metered = Metered(judge.log)
    with pytest.raises(BudgetError, match=r"max_usd=1.5: 0\.6000 are spent, the next question may cost 1\.0000"):
        ask(metered, block_pairs=block_pairs, max_usd=1.5).compare(candidates(TEXTS))
    assert len(judge.queries) == 6, "a block goes on with what its first answers left"
    with pytest.raises(BudgetError):
        ask(metered, block_pairs=block_pairs, max_usd=1.5).compare(candidates(TEXTS))
    assert len(judge.queries) == 6, "everything answered was kept"
    ask(metered, block_pairs=block_pairs, max_usd=2.3).compare(candidates(TEXTS))
    assert len(judge.queries) == 2 * NUM_PAIRS


def test_a_limit_in_dollars_needs_a_price(ask, judge):
    with pytest.raises(ConfigError, match=r"max_usd: nobody says what a query to Recorded costs; .*usd_per_query"):
        Judging(max_usd=1.0).check([Noisy(judge)])
    with pytest.warns(UserWarning, match="nobody is counted against the budget; StyleGame costs nothing"):
        Judging(max_usd=1.0).check([StyleGame()])
    Judging(max_usd=1.0, usd_per_query=0.1).check([judge])
    # Judges of held-out responses and of the measuring commands are no round's, and count all the same.
    for other in (judge, Noisy(judge), ScoreToPreference(Marks())):
        with pytest.raises(ConfigError, match=r"max_usd: nobody says what a query to"):
            ask(other, max_usd=1.0)


def test_what_a_judge_has_cost_is_not_what_it_may_cost(ask, judge):
    class Counts(Recorded):
        @property
        def usd(self):
            return 0.0

    with pytest.raises(ConfigError, match=r"max_usd: nobody says what a query to Counts costs"):
        ask(Counts(judge.log), max_usd=1.0)


def test_the_estimate_says_what_it_costs_and_what_is_left(ask, judge, tmp_path):
    judging = Judging(max_queries=5000, usd_per_query=0.0002)
    ask(judge, max_queries=5000).compare(candidates({"q": ["a", "bb"]}))
    (line,) = judging.estimate(Noisy(judge), tmp_path / "runs" / "run", "round 0", pairs=2580, responses=1290)
    assert line == (
        "round 0: Recorded is asked about at most 2,580 pairs x 2 orders = 5,160 queries, about $1.03; "
        "left of data.judging.max_queries 5,000: 4,998"
    )
    assert judging.estimate(StyleGame(), tmp_path, "round 0", pairs=9, responses=3) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"pair_share": 0.0}, r"data\.judging\.pair_share must lie in \(0, 1\], got 0\.0"),
        ({"certainty": 1.0}, "data.judging.certainty must be from 0.5 to below 1"),
        ({"max_queries": -1}, "data.judging.max_queries must not be negative"),
        ({"block_pairs": 0}, "data.judging.block_pairs must be at least 1"),
    ],
)
def test_settings_that_cannot_be(settings, says):
    with pytest.raises(ConfigError, match=says):
        Judging(**settings)


# --- processes -------------------------------------------------------------------------------------------------------


def in_child(work):
    """Forks; the child does the work and ends with code 0, or 1 after an error."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


MANY = {f"question {n}": [f"{n} {'x' * length}" for length in range(6)] for n in range(10)}


def unique_queries(judge):
    """Both orders of every pair, each once."""
    return sorted(
        f"{question}|{first}|{second}"
        for question, texts in MANY.items()
        for one, other in combinations(texts, 2)
        for first, second in ((one, other), (other, one))
    ) == sorted(judge.queries)


class Slow(Recorded):
    """Takes long enough for another process to ask the same."""

    def prefer_first(self, pairs):
        time.sleep(0.02)
        return super().prefer_first(pairs)


def test_four_processes_judge_every_pair_once(ask, tmp_path):
    judge = Slow(str(tmp_path / "queries.log"))
    expected = Slow(str(tmp_path / "reference.log")).compare(candidates(MANY)).probs_BKJ

    def work(number):
        # Each begins elsewhere, so that they overtake each other.
        order = [*MANY][number:] + [*MANY][:number]
        mine = ask(judge, run=f"run_{number}", block_pairs=7).compare(candidates({q: MANY[q] for q in order}))
        back = [order.index(question) for question in MANY]
        assert torch.allclose(mine.probs_BKJ[back], expected)

    children = [in_child(lambda number=number: work(number)) for number in range(4)]
    assert [exit_code(child) for child in children] == [0, 0, 0, 0]
    assert unique_queries(judge)


def test_a_kill_between_blocks_costs_nothing(ask, judge, monkeypatch):
    monkeypatch.setenv("SPPO_CRASH_AT", "after_judgements:3")
    child = in_child(lambda: ask(judge, block_pairs=20).compare(candidates(MANY)))
    assert exit_code(child) == -signal.SIGKILL
    assert len(judge.queries) == 3 * 40
    monkeypatch.delenv("SPPO_CRASH_AT")
    matrix = ask(judge, block_pairs=20).compare(candidates(MANY))
    assert unique_queries(judge)
    assert bool(matrix.judged_BKJ.all())


class Deadly(Recorded):
    """Takes its process with it, once, after it was asked."""

    def prefer_first(self, pairs):
        verdicts = super().prefer_first(pairs)
        if len(self.queries) == 2 * 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return verdicts


def test_a_kill_in_the_middle_of_a_block_loses_that_block(ask, tmp_path):
    judge = Deadly(str(tmp_path / "queries.log"))
    child = in_child(lambda: ask(judge, block_pairs=20).compare(candidates(MANY)))
    assert exit_code(child) == -signal.SIGKILL
    ask(judge, block_pairs=20, max_queries=340).compare(candidates(MANY))
    assert len(judge.queries) == 300 + 40
    # What the killed process had booked and asked counts as spent.
    with pytest.raises(BudgetError):
        ask(judge, max_queries=340).compare(candidates({"q": ["a", "bb"]}))


def test_an_error_keeps_the_blocks_before_it(ask, tmp_path):
    class Failing(Recorded):
        def prefer_first(self, pairs):
            if len(self.queries) == 80:
                raise OracleError("the judge cannot be reached")
            return super().prefer_first(pairs)

    judge = Failing(str(tmp_path / "queries.log"))
    with pytest.raises(OracleError, match="cannot be reached"):
        ask(judge, block_pairs=20).compare(candidates(MANY))
    assert len(judge.queries) == 80
    healthy = Recorded(judge.log)
    healthy.not_deciding = Failing.not_deciding
    assert identity(healthy) != identity(judge), "another class is another judge"
