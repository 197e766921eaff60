import json

import pytest

from sppo_lightning.errors import DataError
from sppo_lightning.evaluation.alpaca_eval import alpaca_eval_win_rate, leaderboard_row
from sppo_lightning.evaluation.length_controlled import length_controlled_win_rate
from sppo_lightning.io.benchmarks_annotations import read_annotations


def record(preference, baseline="a short answer", model="another answer"):
    return {
        "instruction": "Name a colour.",
        "output_1": baseline,
        "generator_1": "base",
        "output_2": model,
        "generator_2": "ours",
        "preference": preference,
    }


@pytest.fixture
def annotate(tmp_path):
    def write(*preferences):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps([record(preference) for preference in preferences]))
        return read_annotations(path)

    return write


def test_mean_standard_error_and_discrete_win_rate_by_hand(annotate):
    # Wins 1, 0.6, 0.5 (twice), 0: mean 2.6 / 5; squared distances .2304 + .0064 + 2 * .0004 + .2704 = .508
    annotations = annotate(2, 1.6, 1.5, 0, 1.0, None)
    win_rate = alpaca_eval_win_rate(annotations.rows)
    assert win_rate.win_rate == pytest.approx(0.52)
    assert win_rate.standard_error == pytest.approx((0.508 / 4 / 5) ** 0.5)
    assert win_rate.discrete_win_rate == pytest.approx((2 + 2 * 0.5) / 5)
    assert (win_rate.num_wins, win_rate.num_losses, win_rate.num_draws) == (2, 1, 2)
    assert (win_rate.num_judged, win_rate.num_nulls) == (5, 1)
    assert (annotations.baseline, annotations.model) == ("base", "ours")


def test_nan_is_a_null(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([record(float("nan")), record(2)]))
    assert alpaca_eval_win_rate(read_annotations(path).rows).num_nulls == 1


def test_rows_of_the_leaderboard_are_in_per_cent(annotate):
    rows = annotate(2, 1, None).rows
    row = leaderboard_row(alpaca_eval_win_rate(rows), length_controlled_win_rate(rows))
    assert row["win_rate"] == 50
    assert row["standard_error"] == pytest.approx(50)
    assert row["discrete_win_rate"] == 50
    assert (row["n_wins"], row["n_wins_base"], row["n_draws"], row["n_total"], row["n_nulls"]) == (1, 1, 0, 2, 1)
    assert row["length_controlled_winrate"] is None, "two annotations do not say that the model is as strong"


def test_a_single_annotation_has_no_standard_error(annotate):
    rows = annotate(2).rows
    row = leaderboard_row(alpaca_eval_win_rate(rows), length_controlled_win_rate(rows))
    assert (row["win_rate"], row["standard_error"], row["lc_standard_error"]) == (100, None, None)
    json.dumps(row, allow_nan=False)


def test_no_verdict_at_all_is_refused(annotate):
    rows = annotate(None, None).rows
    for measure in (alpaca_eval_win_rate, length_controlled_win_rate):
        with pytest.raises(DataError, match="none of the 2 annotations has a preference"):
            measure(rows)
