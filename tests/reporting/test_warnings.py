import pytest

from sppo_lightning.reporting.record import RunRecord
from sppo_lightning.reporting.warnings import warnings_of

GOOD = {
    "round/win_rate_vs_start": {0: 0.6, 1: 0.7},
    "round/win_rate_vs_start_low": {0: 0.55, 1: 0.65},
    "round/win_rate_vs_start_high": {0: 0.65, 1: 0.75},
    "round/win_rate_vs_previous_high": {0: 0.65, 1: 0.6},
    "round/safe_but_empty": {0: 0.0, 1: 0.0},
    "round/truncated_share": {0: 0.05, 1: 0.1},
    "round/length_correlation": {0: 0.1, 1: 0.2},
    "round/length_correlation_low": {0: 0.0, 1: 0.1},
    "round/judge_gap": {1: 0.02},
    "round/judge_gap_low": {1: -0.02},
    "gap/best_of_n": {1: 0.2},
    "gap/best_of_n_low": {1: 0.15},
    "gap/best_of_n_mixture": {1: 0.18},
    "gap/best_of_n_mixture_high": {1: 0.23},
}


def warn(tmp_path, **changes):
    return warnings_of(RunRecord(path=tmp_path, metrics=GOOD | changes))


def test_a_good_run_has_no_warning(tmp_path):
    assert warn(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"round/safe_but_empty": {0: 0.0, 1: 1.0}}, "Safe but empty: in round 1"),
        (
            {"round/win_rate_vs_start": {0: 0.6, 1: 0.4}, "round/win_rate_vs_start_high": {0: 0.65, 1: 0.5}},
            "worse than",
        ),
        ({"round/win_rate_vs_previous_high": {0: 0.65, 1: 0.48}}, "loses to the one before"),
        ({"gap/best_of_n": {1: 0.4}, "gap/best_of_n_low": {1: 0.35}}, "more exploitable than the mixture"),
        ({"round/judge_gap": {1: 0.2}, "round/judge_gap_low": {1: 0.1}}, "please one judge"),
        ({"round/length_correlation": {1: 0.5}, "round/length_correlation_low": {1: 0.4}}, "pays length"),
        ({"round/truncated_share": {1: 0.5}}, "max_new_tokens"),
    ],
)
def test_each_trouble_is_said_once(tmp_path, changes, says):
    (warning,) = warn(tmp_path, **changes)
    assert says in warning


@pytest.mark.parametrize(
    ("weighting", "weights", "says"),
    [
        ("uniform", (0.5, 0.5), "Deploy exports/mixture.json, which the theorem is about."),
        ("payoff", (0.25, 0.75), "has other weights than equal ones: start 0.25, round_000 0.75 (payoff)"),
        ("payoff", (0.0, 1.0), "exports/mixture.json is round_000 alone (payoff)"),
        (None, (), "mixture of the rounds: gap at least 0.40 against 0.18."),
    ],
)
def test_only_equal_weights_are_what_the_theorem_is_about(tmp_path, weighting, weights, says):
    members = dict(zip(("start", "round_000"), weights, strict=False))
    mixture = {"members": members, "weighting": weighting, "reason": ""} if weighting else {}
    changes = {"gap/best_of_n": {1: 0.4}, "gap/best_of_n_low": {1: 0.35}}
    (warning,) = warnings_of(RunRecord(path=tmp_path, metrics=GOOD | changes, mixture=mixture))
    assert says in warning
    assert ("Deploy" in warning) == (weighting == "uniform")


def test_what_is_not_known_is_said(tmp_path):
    assert "No round is finished" in warnings_of(RunRecord(path=tmp_path))[0]
    assert "not known" in warnings_of(RunRecord(path=tmp_path, metrics={"cost/oracle_queries": {0: 1.0}}))[0]
    assert "text.json" in warnings_of(RunRecord(path=tmp_path, metrics=GOOD, unreadable=("text.json: torn",)))[0]
