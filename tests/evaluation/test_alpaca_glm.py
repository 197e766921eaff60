"""The length-controlled win rate beside that of the package `alpaca_eval` on the same inputs.

The package's figures: version 0.6.6 with scikit-learn 1.7.2 and numpy 2.4.6, its download of `df_gamed.csv` replaced
by `gamed_rows` below. Its solver stops at a tolerance of 1e-4, ours near 1e-9.
"""

import csv
import json
import math
import random

import pytest

from sppo_lightning.errors import DataError
from sppo_lightning.evaluation.alpaca_eval import alpaca_eval_win_rate
from sppo_lightning.evaluation.length_controlled import length_controlled_win_rate
from sppo_lightning.io.benchmarks_annotations import (
    Annotation,
    read_annotations,
    read_gamed_baseline,
    read_instruction_difficulty,
)

NUM_INSTRUCTIONS = 240
MODELS = {
    # name: (strength, characters beyond the baseline's, how often the judge only says win, loss or tie)
    "weak": (-1.5, -100, 0.0),
    "verbose": (0.3, 900, 0.0),
    "terse": (0.4, -500, 0.2),
    "strong": (1.8, 200, 0.0),
    "even": (0.0, 0, 1.0),
}
PACKAGE = {
    # name: (length_controlled_v1, its lc_standard_error, length_controlled_noreg, win_rate, standard_error), per cent
    "weak": (26.4005, 0.3278, 26.3759, 24.0370, 1.5026),
    "verbose": (54.6460, 0.5876, 50.5541, 69.6911, 1.6340),
    "terse": (55.0787, 0.7422, 53.4798, 45.1597, 2.1031),
    "strong": (78.1473, 0.5072, 77.9202, 81.9778, 1.3650),
    "even": (58.0687, 0.9549, 58.1760, 57.1730, 3.0864),
}


def difficulties():
    numbers = random.Random(7)
    return [round(numbers.gauss(0, 1), 4) for _ in range(NUM_INSTRUCTIONS)]


def judged(strength, length_difference, difficulty, numbers):
    """The preference in [0, 1] of a judge that likes length."""
    logit = strength - 0.9 * math.tanh(length_difference) + 0.6 * difficulty + numbers.gauss(0, 1.5)
    return round(1 / (1 + math.exp(-logit)), 6)


def gamed_rows():
    numbers, rows = random.Random(11), []
    for model, length in (("concise", 1.1), ("verbose", -0.9)):
        for index, difficulty in enumerate(difficulties()):
            delta = round(numbers.gauss(length, 0.6), 5)
            rows.append(
                {
                    "index": index,
                    "preference": judged(0.0, delta, 0.3 * difficulty, numbers),
                    "std_delta_len": delta,
                    "instruction_difficulty": difficulty,
                    "not_gamed_baseline": False,
                    "model": model,
                }
            )
    return rows


def annotations(name):
    strength, extra, discrete = MODELS[name]
    numbers, rows = random.Random(name), []
    for index, difficulty in enumerate(difficulties()):
        baseline = int(abs(numbers.gauss(1500, 500))) + 20
        model = max(1, int(baseline + numbers.gauss(extra, 300)))
        preference = judged(strength, (baseline - model) / 400, difficulty, numbers)
        if numbers.random() < discrete:
            preference = 0.5 if abs(preference - 0.5) < 0.05 else float(preference > 0.5)
        rows.append(
            {
                "instruction": f"question {index}",
                "output_1": "x" * baseline,
                "generator_1": "baseline",
                "output_2": "x" * model,
                "generator_2": name,
                "preference": None if numbers.random() < 0.02 else 1 + preference,
            }
        )
    return rows


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def hub_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    gamed, by_position = read_gamed_baseline(write_csv(folder / "df_gamed.csv", gamed_rows()))
    rows = [{"": i, "instruction_difficulty": value} for i, value in enumerate(difficulties())]
    assert read_instruction_difficulty(write_csv(folder / "instruction_difficulty.csv", rows)) == by_position
    return gamed, by_position


@pytest.mark.parametrize("name", MODELS)
def test_as_the_package(name, hub_files, tmp_path):
    gamed, by_position = hub_files
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(annotations(name)))
    rows = read_annotations(path).rows
    v1, v1_error, noreg, win_rate, error = PACKAGE[name]
    published = length_controlled_win_rate(rows, by_position, gamed)
    assert 100 * published.win_rate == pytest.approx(v1, abs=0.1)
    assert 100 * published.standard_error == pytest.approx(v1_error, abs=0.01)
    assert published.caveat == ""
    without = length_controlled_win_rate(rows, by_position)
    if name == "verbose":  # nearly always longer; the package prints its strength of exactly 0 as 50.55
        assert without.theta == 0
        assert math.isnan(without.win_rate)
    else:
        assert 100 * without.win_rate == pytest.approx(noreg, abs=0.1)
    assert "gamed baselines" in without.caveat
    raw = alpaca_eval_win_rate(rows)
    assert (100 * raw.win_rate, 100 * raw.standard_error) == pytest.approx((win_rate, error), abs=1e-4)


def test_length_is_controlled_for():
    """Equal quality, a judge that likes length, and a model that is longer where it can be."""
    numbers = random.Random(3)
    rows = []
    for _ in range(400):
        difference = numbers.gauss(-300, 300)
        logit = -1.5 * math.tanh(difference / 300)
        rows.append(
            Annotation(
                preference=1 + 1 / (1 + math.exp(-logit)), baseline_length=5000, model_length=5000 - int(difference)
            )
        )
    assert alpaca_eval_win_rate(rows).win_rate > 0.65
    controlled = length_controlled_win_rate(rows)
    assert controlled.win_rate == pytest.approx(0.5, abs=0.02)
    assert controlled.phi == pytest.approx(-1.5, abs=0.1)
    assert "not with AlpacaEval's leaderboard" in controlled.caveat


def test_equal_lengths_leave_the_raw_win_rate():
    rows = [Annotation(preference=1 + p, baseline_length=9, model_length=9) for p in (0.9, 0.4, 0.8, 0.7, 0.6, 0.8)]
    assert length_controlled_win_rate(rows).win_rate == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize(
    ("preferences", "longer_by"),
    [
        ([2.0] * 3 + [1.5] + [2.0] * 6, 16),  # always longer: length explains it all, the penalty leaves no strength
        ([2.0] * 3 + [1.5] + [2.0] * 6, 200),  # so much longer that strength and length share the credit at will
        ([2.0], 1),  # the penalty outweighs a single win
        ([2.0, 1.0], 1),
        ([1.5] * 10, 1),
        ([2.0] * 3 + [1.5] + [2.0] * 896, 20_000),  # many, and still nothing but longer
    ],
)
def test_a_strength_that_cannot_be_told_is_no_number(preferences, longer_by):
    rows = [
        Annotation(preference=preference, baseline_length=100, model_length=100 + longer_by + i % 7)
        for i, preference in enumerate(preferences)
    ]
    controlled = length_controlled_win_rate(rows)
    assert math.isnan(controlled.win_rate)
    assert math.isnan(controlled.standard_error)


def test_an_even_model_on_many_instructions_is_a_tie():
    numbers = random.Random(0)
    rows = [
        Annotation(preference=1.0 + i % 2, baseline_length=1000, model_length=1000 + numbers.randint(-300, 300))
        for i in range(800)
    ]
    controlled = length_controlled_win_rate(rows)
    assert controlled.win_rate == pytest.approx(0.5, abs=0.02)


def test_instructions_are_found_by_position(hub_files):
    gamed, by_position = hub_files
    rows = [Annotation(preference=1.5, baseline_length=9, model_length=8 + i % 3) for i in range(NUM_INSTRUCTIONS)]
    with pytest.raises(DataError, match="annotation number 241 of 242 has no instruction difficulty; there are 240"):
        length_controlled_win_rate([*rows, rows[0], rows[1]], by_position, gamed)
    assert "239 of 240 instructions" in length_controlled_win_rate(rows[1:], by_position, gamed).caveat
    with pytest.raises(DataError, match="need the instructions' difficulties"):
        length_controlled_win_rate(rows, None, gamed)
