"""Methods whose rounds are more than play-then-train, through the real `fit` on a tiny policy."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sppo_lightning.engines import Transformers
from sppo_lightning.errors import ConfigError, RunFolderError
from sppo_lightning.objectives import EGPO, HTMNPO, INPO, KTO, ONPO, RLOO, SPO, SPPO, NashMD, OnlineIPO, SPPOSingle
from sppo_lightning.oracles import Shuffled
from sppo_lightning.selfplay.opponents import AnchorMixture, CurrentPolicy, Fixed, History, SelfPlay
from sppo_lightning.selfplay.pairing import All, BestWorst, ExpectedVerdicts
from sppo_lightning.training.schedules import HalfStep, Players, PlayThenTrain, SingleStep, TwoFits

SINGLE_STEPS = {"epochs_per_round": 1, "prompts_per_round": 4, "global_batch_prompts": 4}


def two_fits(tiny):
    return {"objective": ONPO(eta=1.0), "schedule": TwoFits()}, {"opponent": SelfPlay(), "pairing": ExpectedVerdicts()}


def half_step(tiny):
    return (
        {"objective": EGPO(tau=0.1), "schedule": HalfStep(), "reset_optimizer": "never", "lr_schedule": "constant"},
        {"opponent": CurrentPolicy(), "pairing": All(), **SINGLE_STEPS},
    )


def half_step_fits(tiny):
    return (
        {"objective": EGPO(tau=0.1, eta=2.0), "schedule": HalfStep()},
        {"opponent": CurrentPolicy(), "pairing": All()},
    )


def players(tiny):
    objective = HTMNPO(eta=2.0, player_weights=(1.0,))
    return {"objective": objective, "schedule": Players([Shuffled(tiny.word_game())])}, {"opponent": SelfPlay()}


def nash_md(tiny):
    return (
        {"objective": NashMD(tau=0.1), "schedule": SingleStep(), "reset_optimizer": "never"},
        {"opponent": AnchorMixture(0.25), **SINGLE_STEPS},
    )


def kto(tiny):
    return {"objective": KTO()}, {"opponent": SelfPlay()}


def draws(tiny):
    return {"objective": SPPO(eta=2.0, log_z="draws", num_draws=3)}, {"opponent": SelfPlay()}


METHODS = [two_fits, half_step, half_step_fits, players, nash_md, kto, draws]


def method_run(method, tiny, folder, policy_folder, callbacks=None, **data):
    module_args, data_args = method(tiny)
    return tiny.make_run(folder, policy_folder, callbacks, module_args, **data_args | {"num_rounds": 2} | data)


@pytest.fixture(scope="module")
def runs(tiny, policy_folder, tmp_path_factory):
    """Two finished rounds of each method."""
    return {
        method.__name__: method_run(method, tiny, tmp_path_factory.mktemp(method.__name__), policy_folder).fit()
        for method in METHODS
    }


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def rows(folder, stage):
    return folder.read_stage(stage, folder.settings["num_chunks"]).to_pylist()


def logps(folder, name):
    return {(row["prompt_id"], row["candidate"]): row["logp"] for row in rows(folder, f"reference_logps/{name}")}


@torch.no_grad()
def direct(model, prompt_ids, response_ids):
    """Log pi(response | prompt) from the definition."""
    logits = model(torch.tensor([[*prompt_ids, *response_ids]])).logits[0]
    return float(logits[len(prompt_ids) - 1 : -1].log_softmax(-1)[range(len(response_ids)), response_ids].sum())


def check_logps(folder, name, policy):
    """The frozen log-probabilities of that name are this policy's."""
    model = AutoModelForCausalLM.from_pretrained(policy)
    prompts = {row["prompt_id"]: row["prompt_token_ids"] for row in folder.read_prompts().to_pylist()}
    responses = {(row["prompt_id"], row["candidate"]): row["token_ids"] for row in rows(folder, "candidates")}
    found = logps(folder, name)
    assert len(found) > 5
    for (prompt_id, candidate), logp in list(found.items())[:6]:
        assert logp == pytest.approx(direct(model, prompts[prompt_id], responses[prompt_id, candidate]), abs=1e-3)


# --- ONPO ------------------------------------------------------------------------------------------------------------


def test_two_fits_to_the_same_data(runs, policy_folder):
    run = runs["two_fits"].module.run_folder
    for t in (0, 1):
        first, second = run.round(t), run.round(t, 1)
        assert second.path == first.path / "phase_1"
        for stage in ("candidates", "preferences/WordGame/self"):
            assert rows(first, stage) == rows(second, stage)
        assert first.manifest["metrics"]["cost/oracle_queries"] > 0
        costs = {value for name, value in second.manifest["metrics"].items() if name.startswith("cost/")}
        assert costs == {0}, "what the first phase made costs nothing again"
    auxiliary = run.export(0) / "auxiliary"
    assert not same(weights(auxiliary), weights(run.export(0)))
    # The first fit's anchor is pi'_t, the second's pi'_{t+1}.
    check_logps(run.round(0), "auxiliary", policy_folder)
    check_logps(run.round(0, 1), "auxiliary", auxiliary)
    check_logps(run.round(1), "auxiliary", auxiliary)
    check_logps(run.round(1, 1), "auxiliary", run.export(1) / "auxiliary")
    assert run.round(1).manifest["policy"] == "round_000", "the main policy plays"


def test_each_fit_starts_where_its_anchor_is(runs):
    """log pi / pi' = 0 at the first step of either fit, so the loss is that of h = 0: (eta/2)^2 / eta^2."""
    losses = runs["two_fits"].metrics("train/loss_over_eta2")
    begins = [step.step for step in runs["two_fits"].steps if step.num_states == 0]
    assert len(begins) == 4
    assert [losses[step] for step in begins] == [pytest.approx(0.25, abs=1e-4)] * 4


# --- EGPO ------------------------------------------------------------------------------------------------------------


def test_the_step_after_the_half_step_starts_again(tiny, policy_folder, tmp_path):
    """With plain gradient descent: theta_{t+1} - theta_t is the rate times the gradient at theta_t, not at the half."""
    from lightning.pytorch import Callback

    before, gradients = [], []

    class Spy(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            before.append(torch.cat([p.detach().flatten().clone() for p in pl_module.policy.parameters()]))
            gradients.append(torch.cat([p.grad.flatten().clone() for p in pl_module.policy.parameters()]))

    module_args, data_args = half_step(tiny)
    module_args |= {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)}
    run = tiny.make_run(tmp_path, policy_folder, [Spy()], module_args, **data_args, num_rounds=2).fit()
    half, full, next_half, next_full = before
    torch.testing.assert_close(half, full, rtol=0, atol=0)
    torch.testing.assert_close(next_half, next_full, rtol=0, atol=0)
    torch.testing.assert_close(next_half, full - 0.1 * gradients[1])
    assert not torch.allclose(gradients[0], gradients[1]), "the second is against the half-step's responses"
    # The momentum, too, is that of full steps alone.
    end = torch.cat([p.detach().flatten() for p in run.module.policy.parameters()])
    torch.testing.assert_close(end, next_full - 0.1 * (0.9 * gradients[1] + gradients[3]))


def test_the_half_step_is_played_against_itself(runs):
    run = runs["half_step"].module.run_folder
    first, second = run.round(1), run.round(1, 1)
    assert rows(first, "candidates") == rows(second, "candidates")
    assert rows(first, "opponents/current") != rows(second, "opponents/current")
    assert not (run.export(1) / "half").exists()
    assert second.manifest["metrics"]["cost/oracle_queries"] > 0


def test_both_fits_begin_at_pi_t_and_are_anchored_there(runs, policy_folder):
    run = runs["half_step_fits"].module.run_folder
    for phase in (0, 1):
        check_logps(run.round(0, phase), "previous", policy_folder)
        check_logps(run.round(1, phase), "previous", run.export(0))
    begins = [step for step in runs["half_step_fits"].steps if step.num_states == 0]
    assert len(begins) == 4, "a fresh optimiser for each fit"


# --- HT-MNPO ---------------------------------------------------------------------------------------------------------


def test_players_in_turn(runs, policy_folder):
    run = runs["players"].module.run_folder
    one, main = run.export(0) / "player_1", run.export(0)
    assert not same(weights(one), weights(main))
    # Phase 0 trains player 1 against the main policy as it was, phase 1 the main policy against player 1 as it was.
    check_logps(run.round(0), "player_1", policy_folder)
    check_logps(run.round(1), "player_1", main)
    check_logps(run.round(1, 1), "player_1", one)
    assert [run.round(1, phase).manifest["policy"] for phase in (0, 1)] == ["round_000/player_1", "round_000"]
    AutoModelForCausalLM.from_pretrained(one)


# --- Nash-MD ---------------------------------------------------------------------------------------------------------


def test_the_mixture_plays_the_opponent(runs):
    run = runs["nash_md"].module.run_folder
    assert len(rows(run.round(1), "opponents/mixture")) == 4 * 2
    judged = run.round(1).path / "preferences" / "WordGame"
    assert [path.name for path in judged.iterdir()] == ["mixture"]


# --- KTO -------------------------------------------------------------------------------------------------------------


def test_mismatched_rows(runs, policy_folder):
    folder = runs["kto"].module.run_folder.round(0)
    kept = [row for row in folder.read_table("targets").to_pylist() if row["trained"]]
    first = {}
    for row in kept:
        first.setdefault(row["prompt_id"], row["candidate"])
    tokens = {(row["prompt_id"], row["candidate"]): row["token_ids"] for row in rows(folder, "candidates")}
    prompts = {row["prompt_id"]: row["prompt_token_ids"] for row in folder.read_prompts().to_pylist()}
    order = list(first)
    model = AutoModelForCausalLM.from_pretrained(policy_folder)
    found = {row["prompt_id"]: row["logp"] for row in rows(folder, "reference_logps/mismatched_anchor")}
    assert list(found) == order
    for prompt_id, following in zip(order, order[1:] + order[:1], strict=True):
        expected = direct(model, prompts[prompt_id], tokens[following, first[following]])
        assert found[prompt_id] == pytest.approx(expected, abs=1e-3)
    kl = runs["kto"].metrics("train/kl")
    assert kl[0] == pytest.approx(0, abs=1e-4), "pi = pi_ref at the first step"
    assert max(kl.values()) > 1e-3


# --- SPPO eq. 3.5 ----------------------------------------------------------------------------------------------------


def test_log_z_is_that_of_further_draws(runs):
    folder = runs["draws"].module.run_folder.round(0)
    assert {row["candidate"] for row in rows(folder, "draws")} == {0, 1, 2}
    assert {tuple(row["token_ids"]) for row in rows(folder, "draws")} != {
        tuple(row["token_ids"]) for row in rows(folder, "candidates")
    }
    targets = {}
    for row in folder.read_table("targets").to_pylist():
        if row["trained"]:
            targets.setdefault(row["prompt_id"], []).append(2.0 * row["win_rate"])
    expected = []
    for row in folder.read_table("draws").to_pylist():
        log_z = torch.logsumexp(2.0 * torch.tensor(row["win_rates"]), 0) - torch.tensor(3.0).log()
        expected += [(target - float(log_z)) ** 2 for target in targets.get(row["prompt_id"], [])]
    plan = len(expected)
    assert plan > 5
    # The first step sees one batch; one big batch sees all of them.
    data = runs["draws"].data._data_of(1, 0)
    assert all(group.log_z is not None for group in data.groups)


# --- killed and gone on with -----------------------------------------------------------------------------------------


class Killed(Exception):  # noqa: N818 - not an error of ours
    pass


def killer(where):
    """A callback that dies at a step's start, or at the end of an epoch before its checkpoint."""
    from lightning.pytorch import Callback

    hook, count = where

    class Killer(Callback):
        seen = 0

        def _count(self, name):
            if name == hook:
                self.seen += 1
                if self.seen > count:
                    raise Killed

        def on_train_batch_start(self, *arguments):
            self._count("step")

        def on_train_epoch_start(self, *arguments):
            self._count("epoch_start")

        def on_train_epoch_end(self, *arguments):
            self._count("epoch_end")

    return Killer()


@pytest.mark.parametrize("where", [("step", 1), ("step", 3), ("epoch_start", 1), ("epoch_end", 1), ("epoch_end", 2)])
@pytest.mark.parametrize("method", [two_fits, half_step, half_step_fits, players], ids=lambda method: method.__name__)
def test_killed_anywhere_it_ends_the_same(method, where, runs, tiny, policy_folder, tmp_path):
    first = method_run(method, tiny, tmp_path, policy_folder, [killer(where)])
    with pytest.raises(Killed):
        first.fit()
    first.module.run_folder.release()
    checkpoint = first.module.run_folder.last_checkpoint
    second = method_run(method, tiny, tmp_path, policy_folder)
    second.fit(checkpoint if checkpoint.is_file() else None)
    unbroken = runs[method.__name__].module.run_folder
    exports = sorted(unbroken.path.glob("exports/**/model.safetensors"))
    assert len(exports) == 2 * (2 if method in (two_fits, players) else 1)
    for path in exports:
        assert (tmp_path / path.relative_to(unbroken.path)).read_bytes() == path.read_bytes()


def test_a_lost_round_start_is_an_error(tiny, policy_folder, tmp_path):
    first = method_run(half_step, tiny, tmp_path, policy_folder, [killer(("epoch_start", 1))])
    with pytest.raises(Killed):
        first.fit()
    first.module.run_folder.last_checkpoint.with_name("round_start.ckpt").unlink()
    second = method_run(half_step, tiny, tmp_path, policy_folder)
    with pytest.raises(RunFolderError, match=r"round_start\.ckpt should hold .* start of round 0, and holds nothing"):
        second.fit(first.module.run_folder.last_checkpoint)


# --- exports now and then --------------------------------------------------------------------------------------------


def test_export_every(tiny, policy_folder, tmp_path):
    from sppo_lightning.callbacks import HeldOutEvaluation, RoundMetrics

    run = tiny.make_run(
        tmp_path,
        policy_folder,
        [RoundMetrics(), HeldOutEvaluation(num_samples=2)],
        {"objective": SPO(), "schedule": SingleStep(), "reset_optimizer": "never"},
        opponent=SelfPlay(),
        num_rounds=5,
        export_every=2,
        **SINGLE_STEPS,
    ).fit()
    folder = run.module.run_folder
    assert sorted(path.name for path in folder.path.glob("exports/*")) == ["round_001", "round_003", "round_004"]
    assert folder.rounds_trained == 5
    assert list(run.metrics("round/win_rate_vs_start")) == [1, 3, 4]
    queries = run.metrics("cost/oracle_queries")
    assert queries[3] == 4 * queries[1] / 2, "the rounds between are counted"
    assert len(run.steps) == 5


def test_a_refreshed_anchor(tiny, policy_folder, tmp_path):
    module_args = {"objective": INPO(eta=2.0, tau=0.1), "schedule": PlayThenTrain(refresh_anchor_every=2)}
    run = tiny.make_run(
        tmp_path, policy_folder, None, module_args, opponent=SelfPlay(), num_rounds=4, epochs_per_round=1
    ).fit()
    folder = run.module.run_folder
    check_logps(folder.round(1), "anchor", policy_folder)
    for t in (2, 3):
        check_logps(folder.round(t), "anchor", folder.export(1))


# --- what does not go together ---------------------------------------------------------------------------------------

NEVER = {"reset_optimizer": "never"}
REFUSED = [
    ({"objective": EGPO()}, {}, "model.schedule: model.objective EGPO needs HalfStep, not PlayThenTrain"),
    ({"objective": NashMD()}, {}, "data.opponent: model.objective NashMD needs AnchorMixture, not SelfPlay"),
    ({"objective": ONPO()}, {}, "'auxiliary', and model.schedule PlayThenTrain has none .* Set model.schedule TwoFits"),
    ({"objective": HTMNPO()}, {}, "'player/1', and model.schedule PlayThenTrain has none"),
    ({"objective": SPPO(), "schedule": TwoFits()}, {}, "trains auxiliary beside the main policy, and .* never looks"),
    ({"objective": ONPO(), "schedule": TwoFits(), **NEVER}, {}, "model.reset_optimizer: .* set it to round"),
    ({"objective": EGPO(), "schedule": HalfStep()}, {}, "Set data.opponent CurrentPolicy"),
    (
        {"objective": EGPO(), "schedule": HalfStep(), **NEVER},
        {"opponent": CurrentPolicy()},
        "data.epochs_per_round: model.schedule HalfStep uses every response once",
    ),
    (
        {"objective": SPO(), "schedule": SingleStep(), **NEVER},
        {"epochs_per_round": 1},
        "takes one optimiser step a round, but the round's prompts make 3; set it to data.global_batch_prompts",
    ),
    ({"objective": SPO(), "schedule": SingleStep()}, SINGLE_STEPS, "model.reset_optimizer: .* set it to never"),
    ({"objective": SPPOSingle()}, {"opponent": CurrentPolicy()}, "SPPOSingle reads P.chosen beats rejected."),
    ({"objective": OnlineIPO(target="pair_prob")}, {"opponent": CurrentPolicy()}, "OnlineIPO reads P"),
    ({"objective": SPPO()}, {"opponent": History(), "export_every": 2}, "data.export_every = 2: this run reads"),
    (
        {"objective": SPPO(eta=2.0, log_z="draws", num_draws=2)},
        {"opponent": CurrentPolicy()},
        "data.opponent: model.objective.log_z draws estimates log Z from win rates against pi_t",
    ),
    ({"objective": SPPO()}, {"opponent_engine": Transformers()}, "data.opponent_engine: nobody reads it"),
    (
        {"objective": SPPO()},
        {"opponent": CurrentPolicy(), "first_round_from": "a.parquet"},
        "data.first_round_from: the",
    ),
    ({"objective": RLOO()}, {"first_round_from": "a.parquet"}, "RLOO needs a score of every response"),
    (
        {"objective": EGPO(eta=2.0), "schedule": HalfStep()},
        {"opponent": CurrentPolicy(), "export_every": 2},
        "the second fit of each round of HalfStep reads pi_t",
    ),
    ({"objective": SPPO()}, {"opponent": Fixed(["/nowhere"])}, "data.opponent.policies: no tokenizer can be read"),
    (
        {"objective": INPO(eta=2.0, tau=0.1), "schedule": PlayThenTrain(refresh_anchor_every=2)},
        {"export_every": 2},
        "refresh_anchor_every reads the anchor from an export",
    ),
]


@pytest.mark.parametrize(("module_args", "data_args", "rule"), REFUSED)
def test_members_that_contradict_each_other(module_args, data_args, rule, tiny, policy_folder, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    run = tiny.make_run(tmp_path, policy_folder, None, module_args, **{"opponent": SelfPlay(), **data_args})
    with pytest.raises(ConfigError, match=rule):
        run.fit()


def test_too_many_players_for_the_objective(tiny, policy_folder, tmp_path):
    module_args = {"objective": HTMNPO(player_weights=(1.0,)), "schedule": Players([tiny.word_game()] * 2)}
    run = tiny.make_run(tmp_path, policy_folder, None, module_args, opponent=SelfPlay())
    with pytest.raises(ConfigError, match="trains player_2 beside the main policy"):
        run.fit()
    with pytest.raises(ConfigError, match=r"model\.schedule\.oracles"):
        Players([])


def test_a_best_reply_to_a_fixed_policy(tiny, policy_folder, runs, tmp_path):
    frozen = runs["kto"].module.run_folder.export(0)
    run = tiny.make_run(
        tmp_path,
        policy_folder,
        None,
        {"objective": SPPO(eta=2.0)},
        opponent=Fixed([str(frozen), str(policy_folder)], [3.0, 1.0]),
        num_rounds=1,
    ).fit()
    folder = run.module.run_folder.round(0)
    assert len(rows(folder, "opponents/fixed_0")) == len(rows(folder, "opponents/fixed_1")) > 0
    pairs = folder.read_table("pairs").to_pylist()
    assert pairs
    assert all(pair["pair_prob"] != pair["pair_prob"] for pair in pairs), "nobody judged the pairs themselves"


def test_an_opponent_with_other_tokens(tiny, policy_folder, tmp_path):
    other = tiny.save_policy(tmp_path / "other")
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens(["w999"])
    tokenizer.save_pretrained(other)
    run = tiny.make_run(tmp_path, policy_folder, None, {"objective": SPPO()}, opponent=Fixed([str(other)]))
    with pytest.raises(ConfigError, match=r"data.opponent.policies: .* has another vocabulary than the policy"):
        run.fit()


def test_a_gradient_estimate_used_twice_is_said(tiny, policy_folder, tmp_path):
    run = tiny.make_run(
        tmp_path, policy_folder, None, {"objective": SPO()}, opponent=SelfPlay(), pairing=BestWorst(), num_rounds=1
    )
    with (
        pytest.warns(UserWarning, match="only for the first optimiser step on a round, and this run takes 6"),
        pytest.warns(UserWarning, match="data.pairing BestWorst: model.objective SPO is a mean over all"),
    ):
        run.fit()


def test_a_rate_that_falls_counts_no_step_that_is_put_back(tiny, policy_folder, tmp_path):
    module_args, data_args = half_step(tiny)
    module_args |= {"lr_schedule": "linear"}
    run = tiny.make_run(tmp_path, policy_folder, None, module_args, **data_args | {"num_rounds": 4}).fit()
    rates = [step.learning_rate for step in run.steps]
    assert rates[::2] == rates[1::2] == pytest.approx([0.02, 0.015, 0.01, 0.005])


# --- forks -----------------------------------------------------------------------------------------------------------


def fork(tiny, policy_folder, folder, source, module_args, **data):
    return tiny.make_run(folder, policy_folder, None, module_args, fork_from=f"{source}@round_001", **data)


def test_a_fork_of_players_takes_the_main_policys_play(tiny, policy_folder, runs, tmp_path):
    source = runs["players"].module.run_folder
    run = fork(tiny, policy_folder, tmp_path, source.path, {"objective": SPPO(eta=2.0)}, opponent=SelfPlay()).fit()
    shared = run.module.run_folder.round(1)
    assert rows(shared, "candidates") == rows(source.round(1, 1), "candidates") != rows(source.round(1), "candidates")
    check_logps(shared, "previous", source.export(0))


def test_players_are_not_forked(tiny, policy_folder, runs, tmp_path):
    module_args, data_args = players(tiny)
    run = fork(tiny, policy_folder, tmp_path, runs["kto"].module.run_folder.path, module_args, **data_args)
    with pytest.raises(ConfigError, match=r"data\.fork_from: a round of model\.schedule Players begins with another"):
        run.fit()


def test_a_step_at_a_time_does_not_take_a_larger_shared_round(tiny, policy_folder, runs, tmp_path):
    module_args = {"objective": SPO(), "schedule": SingleStep(), "reset_optimizer": "never"}
    source = runs["kto"].module.run_folder.path
    run = fork(tiny, policy_folder, tmp_path, source, module_args, opponent=SelfPlay(), **SINGLE_STEPS)
    with pytest.raises(ConfigError, match="takes one optimiser step a round, but the round's prompts make 3"):
        run.fit()


def test_one_prompt_has_no_other_prompts_response(tiny, policy_folder, tmp_path):
    module_args, data_args = kto(tiny)
    run = tiny.make_run(tmp_path, policy_folder, None, module_args, **data_args, prompts_per_round=1, num_rounds=1)
    with pytest.raises(RunFolderError, match="needs the responses of other prompts"):
        run.fit()
