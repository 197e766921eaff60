"""A judge that costs something, in real runs that are killed, stopped by their budget and run again."""

from collections import Counter

import pyarrow.parquet as pq
import pytest

from sppo_lightning.io.sealed import read_sealed_json

JUDGE = '''
from pathlib import Path

from sppo_lightning.oracles import StyleGame


def prefer(pairs):
    """Quality alone; a line for every query. Nothing is said about prompts that begin with a word of `mute.txt`."""
    folder = Path(__file__).parent
    mute = (folder / "mute.txt").read_text().split()
    asked = [(pair.prompt.text, pair.first, pair.second) for pair in pairs]
    with (folder / "queries.log").open("a") as log:
        log.writelines(repr(question) + "\\n" for question in asked)
    return [
        None
        if prompt.split()[0] in mute
        else (1 + StyleGame.quality(prompt, first) - StyleGame.quality(prompt, second)) / 2
        for prompt, first, second in asked
    ]
'''


@pytest.fixture
def paid(new_run, tmp_path):
    """A run judged by a function that costs something, and the folder with what it was asked."""
    (tmp_path / "judge.py").write_text(JUDGE)
    (tmp_path / "mute.txt").write_text("")
    judge = ("--data.oracle", "Function", "--data.oracle.path", str(tmp_path / "judge.py:prefer"))
    return new_run(*judge, "--data.judging.block_pairs", "8"), tmp_path


def queries(folder):
    return (folder / "queries.log").read_text().splitlines()


def test_no_pair_is_judged_twice_over_a_kill_a_budget_and_a_run_of_its_own(paid):
    run, folder = paid
    assert run.fit(crash_at="after_judgements:3").was_killed
    asked = len(queries(folder))
    assert asked > 0

    stopped = run.fit("--data.judging.max_queries", str(asked + 21))
    assert stopped.code == 75, stopped.output[-3000:]
    assert f"left of data.judging.max_queries {asked + 21}: 21 (judging held-out" in stopped.output, "said beforehand"
    assert f"data.judging.max_queries={asked + 21}: {asked + 20} are spent, the next question needs 2" in stopped.output
    assert len(queries(folder)) == asked + 20

    again = run.fit()
    assert again.code == 0, again.output[-3000:]
    total = len(queries(folder))
    assert set(Counter(queries(folder)).values()) == {1}

    # The same again in a folder of its own asks nobody, and makes the same policy.
    judged_once, export = run.folder, "exports/round_001/model.safetensors"
    run.folder = run.parent / "again"
    rerun = run.fit()
    assert rerun.code == 0, rerun.output[-3000:]
    assert len(queries(folder)) == total
    assert (run.folder / export).read_bytes() == (judged_once / export).read_bytes()
    cost, free = (
        sum(queries for queries, _ in read_sealed_json(path / "judging.json")["spent"].values())
        if (path / "judging.json").is_file()
        else 0
        for path in (judged_once, run.folder)
    )
    assert (cost, free) == (total, 0)


def test_prompts_without_verdicts_stop_the_run_or_are_left_out(paid):
    run, folder = paid
    first = run.fit("--data.stop_after", "play")
    assert first.code == 0, first.output[-3000:]
    prompts = pq.read_table(run.folder / "rounds/round_000/prompts.parquet").to_pylist()
    word = prompts[0]["messages"][-1]["content"].split()[0]
    lost = [row["prompt_id"] for row in prompts if row["messages"][-1]["content"].split()[0] == word]
    (folder / "mute.txt").write_text(word)
    (folder / "queries.log").unlink()

    run.folder = run.parent / "mute"
    arguments = ("--data.stop_after", "play", "--data.judging.cache", str(folder / "own.db"))
    too_many = run.fit(*arguments, "--data.judging.max_quarantined", "0")
    assert too_many.code == 2
    assert f"of the round's 8 prompts ({lost[0]}" in too_many.error
    went_on = run.fit(*arguments, "--data.judging.max_quarantined", "1", "--trainer.callbacks", "[]")
    assert went_on.code == 0, went_on.output[-3000:]
    assert "round 0: Function-prefer is asked about at most" in went_on.output, "whatever callbacks there are"
    assert set(Counter(queries(folder)).values()) == {1}
    round_ = run.folder / "rounds/round_000"
    assert pq.read_table(round_ / "quarantined.parquet")["prompt_id"].to_pylist() == lost
    metrics = read_sealed_json(round_ / "manifest.json")["metrics"]
    assert metrics["round/quarantined"] == len(lost)
    trained = pq.read_table(round_ / "targets.parquet").to_pylist()
    assert not any(row["trained"] for row in trained if row["prompt_id"] in lost)
    assert any(row["trained"] for row in trained)

    # Stopped before its end, the round asks again about what is written already.
    (folder / "mute.txt").write_text("")
    (round_ / "manifest.json").unlink()
    retried = run.fit(*arguments, "--data.judging.max_quarantined", "0", "--data.judging.retry_failed", "true")
    assert retried.code == 0, retried.output[-3000:]
    assert not (round_ / "quarantined.parquet").exists()
    assert {question.split("', ")[0] for question, n in Counter(queries(folder)).items() if n == 2} == {
        "(" + repr(row["messages"][-1]["content"])[:-1] for row in prompts if row["prompt_id"] in lost
    }
