"""A run with another logger than ours, a second judge, and answers that turn bland."""

import csv
import json
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import CSVLogger

from sppo_lightning import callbacks
from sppo_lightning.objectives import SPPO
from sppo_lightning.oracles.base import PreferenceOracle
from sppo_lightning.training.tracking import RunLogger
from sppo_lightning.types import PreferenceMatrix


class Contrarian(PreferenceOracle):
    """Prefers what another judge rejects."""

    def __init__(self, judge):
        self._judge = judge

    def compare(self, candidates, opponents=None):
        matrix = self._judge.compare(candidates, opponents)
        return PreferenceMatrix(
            probs_BKJ=1 - matrix.probs_BKJ,
            judged_BKJ=matrix.judged_BKJ,
            self_play=matrix.self_play,
            prompt_ids=matrix.prompt_ids,
        )


@pytest.fixture(scope="module")
def run(tiny, policy_folder, tmp_path_factory):
    """One round, two judges, and a logger that knows nothing but metrics."""
    root = tmp_path_factory.mktemp("contrary")
    members = [
        callbacks.HeldOutEvaluation(num_samples=2),
        callbacks.SecondJudge(Contrarian(tiny.word_game()), num_samples=2),
        callbacks.JudgeInsight(),
        callbacks.TextSigns(),
        callbacks.TokenRatios(num_prompts=2, num_shown=1),
        callbacks.ModelCard(),
        callbacks.RunReport(),
    ]
    settings = {"num_rounds": 1, "epochs_per_round": 1, "opponent": tiny.self_play()}
    run = tiny.make_run(root, policy_folder, members, {"objective": SPPO(eta=2.0)}, **settings)
    run.trainer.logger = CSVLogger(root, name="plain")
    return run.fit()


def measured(run, name):
    return json.loads((run.root / f"eval/round_000/{name}.json").read_text())


def test_two_judges_who_never_agree_are_as_far_apart_as_can_be(run):
    first, second = measured(run, "metrics"), measured(run, "second_judge")
    rate = first["round/win_rate_vs_start"]
    assert second["round/second_win_rate_vs_start"] == pytest.approx(1 - rate, abs=1e-6)
    assert second["round/judge_gap"] == pytest.approx(2 * rate - 1, abs=1e-6)
    assert second["round/judge_gap_low"] < second["round/judge_gap"] < second["round/judge_gap_high"]


def test_any_logger_gets_the_metrics_and_the_page_is_written(run):
    with next((run.root / "plain").rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    for name in ("second_judge", "judge", "text", "log_ratios"):
        for key, value in measured(run, name).items():
            if not key.endswith(("_low", "_high")):
                assert any(float(row[key]) == pytest.approx(value) for row in rows if row[key]), key
    page = (run.root / "report.html").read_text(encoding="utf-8")
    assert "against the start, second judge" in page
    card = (run.root / "exports/round_000/README.md").read_text(encoding="utf-8")
    assert "| round | vs start |" in card


def test_few_prompts_are_measured_where_few_are_asked_for(run):
    assert len(measured(run, "token_ratios")) == 2


def test_answers_that_turn_bland_are_a_warning(run, monkeypatch):
    texts = {
        "start": [
            [(f"the {word} of the {word} is {word} and {word}", 9)] * 2 for word in ("red", "old", "wet", "big", "dry")
        ],
        "round_000": [[("I cannot say.", 4)] * 2] * 5,
    }
    signs = callbacks.TextSigns()
    monkeypatch.setattr(signs, "_texts", lambda run, policy: texts[policy])
    (run.root / "eval/round_000/metrics.json").write_text('{"round/win_rate_vs_start_high": 0.9}')
    (run.root / "eval/round_000/text.json").unlink()
    trainer = SimpleNamespace(is_global_zero=True, loggers=[], strategy=run.trainer.strategy)
    with pytest.warns(UserWarning, match="safe but empty: refused or empty answers rose from 0% to 100%"):
        signs.on_round_end(trainer, run.module, 0)
    assert measured(run, "text")["round/safe_but_empty"] == 1


def test_the_page_goes_to_the_record_whenever_it_changes_and_before_the_file_says_so(run):
    sent = {}

    class Record(RunLogger):
        def __init__(self):
            pass

        def log_text(self, text, artifact_file):
            assert not report.is_file()
            sent[artifact_file] = text

    report = run.root / "report.html"
    report.unlink()
    trainer = SimpleNamespace(is_global_zero=True, loggers=[Record()])
    callbacks.RunReport().on_train_end(trainer, run.module)
    assert sent.pop("report.html") == report.read_text(encoding="utf-8")
    assert {"figures/win_rates.svg", "figures/judge.svg"} <= set(sent)
    sent.clear()
    callbacks.RunReport().on_train_end(trainer, run.module)
    assert sent == {}
