"""Runs on rewards: a verifier's, and a reward model's that is refitted each round."""

from __future__ import annotations

import json

import pytest

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.io import carriers
from sppo_lightning.objectives import GPO, GRPO, RLOO, SPPO
from sppo_lightning.oracles import ScoreToPreference, TargetLength, Verifier
from sppo_lightning.oracles.judging import Judging
from sppo_lightning.selfplay.opponents import CurrentPolicy, SelfPlay
from sppo_lightning.selfplay.pairing import All
from sppo_lightning.training.reward_model import BradleyTerryRewardModel
from sppo_lightning.training.schedules import SingleStep


def reward_model(**changes):
    return BradleyTerryRewardModel(
        **{"learning_rate": 0.01, "epochs": 3, "batch_prompts": 4, "held_back": 0.2} | changes
    )


def make(tiny, root, policy, objective, **data):
    settings = {"num_rounds": 2, "epochs_per_round": 1, "opponent": SelfPlay(), "pairing": All()}
    return tiny.make_run(root, policy, module_args={"objective": objective}, **settings | data)


def files(root):
    """Name -> bytes of everything that a run computed and MLflow does not hold."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.suffix in (".parquet", ".safetensors") or path.name == "fit.json"
    }


@pytest.fixture(scope="module")
def modelled(tiny, policy_folder, tmp_path_factory):
    """Two rounds of RLOO on a reward model's scores."""
    return make(tiny, tmp_path_factory.mktemp("modelled"), policy_folder, RLOO(), reward_model=reward_model()).fit()


def test_rloo_trains_on_the_rewards_of_each_round_s_own_model(modelled, tiny):
    run = modelled.module.run_folder
    for index in range(2):
        folder = run.round(index)
        rewards = carriers.preferences_from(folder.read_stage("rewards/self", 3), self_play=True).scores_BK
        expected = (rewards - rewards.mean(1, keepdim=True)) * 4 / 3
        scores = [row["score"] for row in folder.read_table("targets").to_pylist()]
        assert scores == pytest.approx(expected.flatten().tolist(), abs=1e-5)
        assert 0 <= folder.manifest["metrics"]["round/reward_model_accuracy"] <= 1
    counts = [run.round(index).manifest["metrics"]["round/reward_model_comparisons"] for index in range(2)]
    # 11 prompts of 6 pairs, of which 2 prompts are held back; the second round remembers the first.
    assert counts == [9 * 6, 18 * 6]
    models = [(run.round(index).path / "reward_model" / "model.safetensors").read_bytes() for index in range(2)]
    assert models[0] != models[1]
    assert (run.export(1) / "model.safetensors").read_bytes() != (run.export(0) / "model.safetensors").read_bytes()


@pytest.mark.parametrize("point", ["after_rename:rewards", "before_rename:reward_model"])
def test_a_run_that_is_killed_while_rewards_are_made_ends_the_same(
    modelled, tiny, policy_folder, tmp_path, monkeypatch, point
):
    class Killed(BaseException):
        pass

    died = []

    def die(name):
        if name == point and not died:
            died.append(name)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("sppo_lightning.io.files.crash_point", die)
        with pytest.raises(Killed):
            make(tiny, tmp_path, policy_folder, RLOO(), reward_model=reward_model()).fit()
    assert died == [point]
    make(tiny, tmp_path, policy_folder, RLOO(), reward_model=reward_model()).fit()
    assert files(tmp_path) == files(modelled.root)


@pytest.mark.parametrize("objective", [SPPO(eta=2.0), GRPO()], ids=lambda objective: type(objective).__name__)
def test_other_objectives_share_the_judged_round(modelled, tiny, policy_folder, tmp_path, objective):
    calls = type(tiny.word_game()).calls
    run = make(
        tiny,
        tmp_path,
        policy_folder,
        objective,
        reward_model=reward_model(),
        num_rounds=1,
        fork_from=f"{modelled.root}@round_000",
    ).fit()
    ours, theirs = (files(root / "rounds" / "round_000") for root in (tmp_path, modelled.root))
    shared = [name for name in theirs if name.startswith(("candidates/", "preferences/"))]
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared} != {}
    assert type(run.data.oracle).calls == calls, "nothing is judged again"
    made = [name for name in theirs if name.startswith(("reward_model/", "rewards/"))]
    assert {name: ours[name] for name in made} == {name: theirs[name] for name in made} != {}
    assert run.module.run_folder.export(0).is_dir()


def test_a_verifier_s_verdicts_are_rewards(tiny, policy_folder, tmp_path):
    rows = [row | {"answer": "w[0-4].*"} for row in tiny.prompt_rows(14)]
    (tmp_path / "answers.json").write_text(json.dumps(rows))
    data = {"prompts": str(tmp_path / "answers.json"), "oracle": Verifier(match="regex"), "num_rounds": 1}
    run = make(tiny, tmp_path / "run", policy_folder, GRPO(), **data).fit()
    folder = run.module.run_folder.round(0)
    text = {(r["prompt_id"], r["candidate"]): r["text"] for r in folder.read_stage("candidates", 3).to_pylist()}
    right = {key: words[:2] in ("w0", "w1", "w2", "w3", "w4") for key, words in text.items()}
    assert 0 < sum(right.values()) < len(right)
    for row in folder.read_table("targets").to_pylist():
        others = [right[row["prompt_id"], k] for k in range(4) if k != row["candidate"]]
        assert row["score"] == pytest.approx(right[row["prompt_id"], row["candidate"]] - sum(others) / 3)
        assert row["win_rate"] == pytest.approx((row["score"] + 1) / 2)


@pytest.mark.parametrize("objective", [RLOO(tau=0.01), GRPO(tau=0.01)], ids=lambda objective: type(objective).__name__)
def test_single_steps_climb_the_reward(tiny, policy_folder, tmp_path, objective):
    run = tiny.make_run(
        tmp_path,
        policy_folder,
        module_args={
            "objective": objective,
            "schedule": SingleStep(),
            "reset_optimizer": "never",
            "lr_schedule": "constant",
            "checkpoint_every_n_steps": 100,
        },
        oracle=ScoreToPreference(TargetLength(3)),
        opponent=SelfPlay(),
        num_rounds=12,
        num_candidates=6,
        epochs_per_round=1,
        global_batch_prompts=11,
        export_every=12,
        chunk_prompts=11,
        max_pack_tokens=4096,
    ).fit()
    scores = [run.module.run_folder.round(index).manifest["metrics"]["round/mean_score"] for index in range(12)]
    assert sum(scores[:2]) / 2 < -4, "tokens away from the wanted length, on average"
    assert sum(scores[-4:]) / 4 > -2.5
    assert [step.round for step in run.steps] == list(range(12))


# --- what is refused before anything is played -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "settings", "error", "rule"),
    [
        (
            RLOO(),
            {"oracle": "silent"},
            ConfigError,
            r"RLOO needs a score .* Silent gives none.*--data\.reward_model Bradl",
        ),
        (
            GPO(),
            {"judging": Judging(pair_share=0.5)},
            ConfigError,
            r"data\.judging: model\.objective GPO needs a score .* leaving out pairs leaves none",
        ),
        (
            SPPO(),
            {"judging": Judging(certainty=0.9), "pairing": All()},
            ConfigError,
            r"data\.judging\.certainty: data\.pairing All trains on more than the best and the worst",
        ),
        (GPO(), {"oracle": "silent"}, ConfigError, r"GPO needs a score of every response, and Silent gives none"),
        (GRPO(), {"opponent": CurrentPolicy()}, ConfigError, r"data\.opponent: model\.objective GRPO reads how"),
        (
            SPPO(),
            {"oracle": Verifier()},
            OracleError,
            r"Verifier: prompt p\d+ has no field 'answer', it has no further",
        ),
    ],
)
def test_rewards_that_nobody_gives(tiny, policy_folder, tmp_path, objective, settings, error, rule):
    if settings.get("oracle") == "silent":
        settings = {"oracle": type("Silent", (type(tiny.word_game()),), {"gives_scores": False})()}
    run = make(tiny, tmp_path, policy_folder, objective, **settings)
    with pytest.raises(error, match=rule):
        run.fit()
    assert not run.module.run_folder.has_begun
