"""What a resume refuses: changed settings, changed prompts, and a folder that another process holds."""

import json
import os
import re
import shutil
import signal
import time

import pytest

from .comparison import differences
from .harness import finished_work, made_again

CHANGES = {
    "eta": (("--model.objective.eta", "7.0"), r"objective.*\.eta: was 6\.0, now 7\.0"),
    "objective": (("--model.objective", "DPO"), r"objective.*: was .*SPPO, now .*DPO"),
    "K": (("--data.num_candidates", "4"), r"num_candidates: was 3, now 4"),
    "seed": (("--seed_everything", "43"), r"seed_everything: was 42, now 43"),
    "policy": (("--model.policy", "other/policy"), r"model.*policy: was package:quickstart/policy, now other/policy"),
    "engine": (("--data.engine.max_new_tokens", "25"), r"engine.*max_new_tokens: was 24, now 25"),
    "learning rate": (("--model.optimizer.lr", "0.01"), r"optimizer.*\.lr: was 0\.001, now 0\.01"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_is_refused_with_both_values(change, unbroken):
    arguments, told = CHANGES[change]
    before = unbroken.contents()
    attempt = unbroken.fit(*arguments)
    assert attempt.code == 2
    assert str(unbroken.folder) in attempt.error
    assert re.search(told, attempt.output), attempt.output
    assert unbroken.contents() == before


@pytest.fixture
def prompts_file(tmp_path):
    """The packaged prompts as a file that can be changed."""
    from sppo_lightning.io.assets import resolve

    path = tmp_path / "prompts.jsonl"
    shutil.copyfile(resolve("package:quickstart/prompts.jsonl"), path)
    return path


def test_changed_prompts_are_refused(new_run, prompts_file):
    run = new_run("--data.prompts", str(prompts_file))
    assert run.fit(crash_at="after_optimizer_step:1").was_killed
    finished = finished_work(run.folder)
    rows = prompts_file.read_text().splitlines()
    prompts_file.write_text("\n".join([*rows[:-1], json.dumps({"prompt": "Something else?"})]))
    attempt = run.fit()
    assert attempt.code == 2
    assert "data.prompts" in attempt.error
    assert str(prompts_file) in attempt.error
    assert made_again(finished, run.folder) == []
    prompts_file.write_text("\n".join(rows))
    assert run.fit().code == 0


def test_a_start_that_failed_binds_nobody_to_its_settings(new_run, unbroken, tmp_path):
    run = new_run()
    for key, wrong, told in (
        ("--data.prompts", tmp_path / "missing.jsonl", "missing.jsonl: there is no such file"),
        ("--model.policy", tmp_path, "model.policy: no tokenizer can be read"),
        ("--data.fork_from", f"{tmp_path}@round_000", "data.fork_from: "),
    ):
        attempt = run.fit(key, str(wrong))
        assert attempt.code == 2
        assert told in attempt.error
    assert run.fit().code == 0
    assert differences(run, unbroken) == []


def test_a_second_process_refuses_and_the_first_goes_on(new_run, unbroken):
    run = new_run()
    first, _ = run.start()
    try:
        while not (run.folder / "run.json").is_file():
            time.sleep(0.01)
        os.kill(first, signal.SIGSTOP)
        second = run.fit()
    finally:
        os.kill(first, signal.SIGCONT)
    assert second.code == 2
    assert f"{run.folder}: another process is using this run folder" in second.error
    assert run.launcher.wait(first)[0] == 0
    assert differences(run, unbroken) == []


def test_the_lock_of_a_killed_process_holds_nobody_up(new_run):
    run = new_run()
    assert run.fit(crash_at="after_rename:run:1").was_killed
    assert (run.folder / "run.lock").exists()
    assert run.fit("--data.stop_after", "play").code == 0
