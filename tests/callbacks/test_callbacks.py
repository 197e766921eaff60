"""What the callbacks print, log and write is what the run's files say."""

import inspect
import json
import math

import pytest
import torch
import yaml
from sppo_lightning.callbacks.round_end import RoundEndCallback
from transformers import AutoModelForCausalLM

from sppo_lightning import callbacks
from sppo_lightning.evaluation.responses import stored_responses
from sppo_lightning.functional.intervals import win_rate_interval
from sppo_lightning.io.carriers import candidates_from
from sppo_lightning.objectives import SPPO
from sppo_lightning.oracles import StyleGame

ROUNDS = (0, 1, 2)
INTERVALS = {
    f"round/win_rate_vs_{opponent}{end}" for opponent in ("start", "previous") for end in ("", "_low", "_high")
}


INSIGHT = {
    "round/cyclic_share",
    "round/curl_share",
    "round/tie_share",
    "round/winner_tokens",
    "round/loser_tokens",
    "round/empty_share",
    "round/refusal_share",
    "round/repetition_share",
    "round/safe_but_empty",
    "round/length_correlation",
    "round/winner_log_ratio",
    "round/loser_log_ratio",
    "round/silent_share",
    "round/self_bleu",
    "round/cross_bleu",
    "round/held_out_tokens",
}


GAPS = {f"gap/{name}{of}" for name in ("checkpoints", "best_of_n") for of in ("", "_mixture")}
AVERAGE = {"gap/best_of_n_average", "round/win_rate_average_vs_start"}


def held_out(run, policy):
    """The stored held-out responses of a policy."""
    return candidates_from(
        stored_responses(run.root / "eval" / policy, num_samples=8),
        run.data.held_out_prompts,
        run.data.held_out_token_ids,
        policy=policy,
        sampling=run.data.engine.sampling,
    )


def test_the_package_exports_its_callbacks():
    for name in callbacks.__all__:
        cls = getattr(callbacks, name)
        assert inspect.getdoc(cls)
        cls()
    assert RoundEndCallback.__name__ not in callbacks.__all__


def test_every_round_has_these_metrics_once(finished_run):
    expected = {
        *INTERVALS,
        "round/mean_response_tokens",
        "round/truncated_share",
        "round/duplicate_share",
        "round/skipped_prompts",
        "round/quarantined",
        "cost/paid_queries",
        "round/trained_responses",
        "round/mean_score",
        "round/kl_to_start",
        *INSIGHT,
        *GAPS,
        *AVERAGE,
        "cost/oracle_queries",
        "cost/generated_tokens",
        "time/generate",
        "time/judge",
        "time/reference",
        "time/overlap",
        "time/train",
        "time/evaluate",
        "time/average",
        "time/gaps",
    }
    names = {name for _, metrics in finished_run.logged for name in metrics if not name.startswith("train/")}
    assert names == expected
    for name in names:
        values = finished_run.metrics(name)
        assert sorted(values) == list(ROUNDS), name
        assert all(math.isfinite(value) for value in values.values())


def test_played_metrics_are_the_manifest_s_and_costs_add_up(finished_run):
    played = [finished_run.module.run_folder.round(t).manifest["metrics"] for t in ROUNDS]
    for name, value in played[2].items():
        if name.startswith("cost/"):
            sums = {t: sum(metrics[name] for metrics in played[: t + 1]) for t in ROUNDS}
            assert finished_run.metrics(name) == sums
            assert sums[2] > sums[0] > 0
        else:
            assert finished_run.metrics(name)[2] == value


def test_times_are_of_this_run(finished_run):
    for name in ("generate", "judge", "reference", "train", "evaluate"):
        assert all(0 < seconds < 120 for seconds in finished_run.metrics(f"time/{name}").values())


@pytest.mark.parametrize("round_index", ROUNDS)
def test_win_rates_are_those_of_the_stored_responses(finished_run, round_index):
    policies = ["start", "round_000", "round_001", "round_002"]
    new = held_out(finished_run, policies[round_index + 1])
    for name, opponent in (("start", "start"), ("previous", policies[round_index])):
        matrix = finished_run.data.oracle.compare(new, held_out(finished_run, opponent))
        interval = win_rate_interval([probs.flatten() for probs in matrix.probs_BKJ])
        key = f"round/win_rate_vs_{name}"
        assert finished_run.metrics(key)[round_index] == pytest.approx(interval.estimate)
        assert finished_run.metrics(f"{key}_low")[round_index] == pytest.approx(interval.low)
        assert finished_run.metrics(f"{key}_high")[round_index] == pytest.approx(interval.high)


@torch.no_grad()
def test_the_kl_is_that_of_the_exports(finished_run, policy_folder):
    new = AutoModelForCausalLM.from_pretrained(finished_run.module.run_folder.export(2))
    start = AutoModelForCausalLM.from_pretrained(policy_folder)
    responses = held_out(finished_run, "round_002")
    log_ratios = []
    for prompt_ids, group in zip(responses.prompt_token_ids, responses.token_ids, strict=True):
        for ids in group:
            logps = [
                model(torch.tensor([[*prompt_ids, *ids]])).logits[0, len(prompt_ids) - 1 : -1].log_softmax(-1)
                for model in (new, start)
            ]
            log_ratios.append(float((logps[0] - logps[1])[torch.arange(len(ids)), ids].sum()))
    assert finished_run.metrics("round/kl_to_start")[2] == pytest.approx(sum(log_ratios) / len(log_ratios), rel=1e-4)


def test_sample_tables_show_the_ends_of_each_prompt(finished_run):
    for round_index in ROUNDS:
        folder = finished_run.module.run_folder.round(round_index)
        texts = {
            (row["prompt_id"], row["candidate"]): row["text"]
            for row in folder.read_stage("candidates", folder.settings["num_chunks"]).to_pylist()
        }
        rates = {}
        for row in folder.read_table("targets").to_pylist():
            rates.setdefault(row["prompt_id"], []).append(row["win_rate"])
        prompts = folder.read_prompts().to_pylist()
        table = finished_run.tables["samples", round_index]
        assert [row["prompt"] for row in table] == [prompt["messages"][-1]["content"] for prompt in prompts[:8]]
        for prompt, row in zip(prompts, table, strict=False):
            mine = rates[prompt["prompt_id"]]
            assert row["best win rate"] == round(max(mine), 3)
            assert row["worst win rate"] == round(min(mine), 3)
            assert row["best"] == texts[prompt["prompt_id"], len(mine) - 1 - mine[::-1].index(max(mine))]
            assert row["worst"] == texts[prompt["prompt_id"], mine.index(min(mine))]


def test_the_model_card_says_what_was_measured(finished_run, policy_folder):
    for round_index in ROUNDS:
        card = (finished_run.module.run_folder.export(round_index) / "README.md").read_text(encoding="utf-8")
        _, header, body = card.split("---\n", 2)
        fields = yaml.safe_load(header)
        assert fields["base_model"] == str(policy_folder)
        assert fields["library_name"] == "transformers"
        assert f"after {round_index + 1} round{'s' * (round_index > 0)} of self-play" in body
        assert "WordGame" in body
        for t in range(round_index + 1):
            start, low, high = (
                finished_run.metrics(f"round/win_rate_vs_start{end}")[t] for end in ("", "_low", "_high")
            )
            kl = finished_run.metrics("round/kl_to_start")[t]
            assert f"| {t} | {start:.3f} [{low:.3f}, {high:.3f}] |" in body
            assert f" {kl:.2f} |" in body
        assert f"| {round_index + 1} |" not in body
    assert finished_run.description in card, "MLflow shows the last one"


def test_manifests_go_to_the_record(finished_run):
    assert [name for name in finished_run.artifacts if name.endswith("manifest.json")] == [
        f"rounds/round_{t:03d}/manifest.json" for t in ROUNDS
    ]


def test_what_was_logged_is_on_disk_first(finished_run):
    for round_index in ROUNDS:
        folder = finished_run.root / "eval" / f"round_{round_index:03d}"
        written = {}
        for name in ("metrics.json", "round.json"):
            written |= json.loads((folder / name).read_text())
        for name in INTERVALS | {"round/kl_to_start", "time/train", "cost/oracle_queries"}:
            assert written[name] == finished_run.metrics(name)[round_index]


@pytest.fixture(scope="module")
def short_run(tiny, policy_folder, tmp_path_factory):
    """short_run(*callbacks) -> a run of one round that has only these callbacks."""

    def short_run(*members, **settings):
        return tiny.make_run(
            tmp_path_factory.mktemp("short"),
            policy_folder,
            list(members),
            {"objective": SPPO(eta=2.0)},
            **{"num_rounds": 1, "epochs_per_round": 1, "opponent": tiny.self_play()} | settings,
        ).fit()

    return short_run


def test_the_summary_prints_what_the_files_say(short_run, capsys):
    run = short_run(callbacks.RoundMetrics(), callbacks.HeldOutEvaluation(num_samples=2), callbacks.RunSummary(1))
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.strip().startswith("0 ")]
    assert len(lines) >= 1
    assert len(set(lines)) == 1
    rate, low, high = (run.metrics(f"round/win_rate_vs_start{end}")[0] for end in ("", "_low", "_high"))
    played = run.module.run_folder.round(0).manifest["metrics"]
    cells = lines[0].split()
    assert f"{rate:.3f} [{low:.3f}, {high:.3f}]" in lines[0]
    assert f"{run.metrics('round/kl_to_start')[0]:.2f}" in cells
    assert f"{played['round/mean_response_tokens']:.1f}" in cells
    assert f"{played['round/truncated_share']:.1%}" in cells
    assert str(played["round/skipped_prompts"]) in cells
    seconds = sum(run.metrics(f"time/{name}")[0] for name in ("generate", "judge", "reference", "train", "evaluate"))
    seconds -= run.metrics("time/overlap")[0]
    assert float(cells[-1]) == pytest.approx(seconds, abs=0.06)
    example = run.data.held_out_prompts[0]
    assert f"prompt: {example.text}" in printed
    for label, policy in (("before", "start"), ("after ", "round_000")):
        assert f"{label}: {held_out(run, policy).texts[0][0]}"[:60].strip() in printed
    assert str(run.module.run_folder.export(0)) in printed
    assert "tokens, truncated, duplicate: of the round's training responses." in printed
    assert "report:" not in printed  # nobody writes one


def test_without_held_out_prompts_there_is_nothing_to_compare(short_run, capsys):
    ours = [getattr(callbacks, name)() for name in callbacks.__all__]
    run = short_run(*ours, held_out=0)
    assert not INTERVALS & {name for _, metrics in run.logged for name in metrics}
    assert "not evaluated" in (run.module.run_folder.export(0) / "README.md").read_text()
    lines = capsys.readouterr().out.splitlines()
    line = next(line for line in lines if line.strip().startswith("0 "))
    assert line.split()[1:4] == ["-", "-", "-"]
    assert f"report: {run.root / 'report.html'}" in lines


def test_another_judge_may_evaluate(short_run):
    judge = StyleGame()
    run = short_run(callbacks.HeldOutEvaluation(num_samples=2, oracle=judge))
    matrix = judge.compare(held_out(run, "round_000"), held_out(run, "start"))
    expected = win_rate_interval([probs.flatten() for probs in matrix.probs_BKJ]).estimate
    assert run.metrics("round/win_rate_vs_start")[0] == pytest.approx(expected)


def test_progress_names_every_stage(short_run, capsys):
    run = short_run(callbacks.RoundProgress())
    steps, prompts = len(run.steps), run.module.run_folder.round(0).read_prompts().num_rows
    printed = capsys.readouterr().err
    for line in (
        f"round 0: generating: {4 * prompts} responses in",
        f"round 0: judging: {6 * prompts} pairs in",
        f"round 0: reference previous: {prompts} prompts in",
        f"round 0: training epoch 1/1: {steps} steps in",
    ):
        assert line in printed
