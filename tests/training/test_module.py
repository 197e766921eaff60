"""The global step: its gradient, its clipping, its learning rate, whatever the packs."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from sppo_lightning.errors import ConfigError
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.objectives import DPO, SPPO
from sppo_lightning.selfplay.dataset import RoundDataset
from sppo_lightning.training.module import PolicyModule
from sppo_lightning.training.policy import load_policy
from sppo_lightning.training.reference import frozen_logps

ETA = 3.0
OBJECTIVES = {"rows": SPPO(eta=ETA), "pairs": DPO(beta=0.1)}


def batch_of(groups, max_pack_tokens):
    data = RoundDataset(groups, seed=0, round_index=0)
    return data.batch(range(len(groups)), rank=0, world_size=1, max_pack_tokens=max_pack_tokens)


def naive_gradient(policy_folder, groups, kind):
    """The mean loss over the global batch, row by row, from the definition; then one backward pass."""
    model = AutoModelForCausalLM.from_pretrained(policy_folder).train()
    losses, weights = [], []
    for group in groups:
        log_ratios = []
        for ids, previous in zip(group.response_ids, group.frozen_logps["previous"], strict=True):
            logits = model(torch.tensor([[*group.prompt_ids, *ids]])).logits[0]
            logps = logits[len(group.prompt_ids) - 1 : -1].log_softmax(-1)
            log_ratios.append(logps[torch.arange(len(ids)), ids].sum() - previous)
        if kind == "rows":
            for log_ratio, rate, weight in zip(log_ratios, group.win_rates, group.row_weights, strict=True):
                if weight > 0:
                    losses.append(weight * (log_ratio - ETA * (rate - 0.5)) ** 2)
                    weights.append(weight)
        else:
            for (chosen, rejected), weight in zip(group.pairs, group.pair_weights, strict=True):
                losses.append(-weight * logsigmoid(0.1 * (log_ratios[chosen] - log_ratios[rejected])))
                weights.append(weight)
    loss = sum(losses) / sum(weights)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, float(loss.detach())


def distance(one, other):
    """The norm of the difference, relative to the norm of the second."""
    norm = torch.sqrt(sum(g.double().square().sum() for g in other.values()))
    gap = torch.sqrt(sum((one[name].double() - g.double()).square().sum() for name, g in other.items()))
    return float(gap / norm)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_the_gradient_is_that_of_the_global_batch_in_1_2_or_8_packs(fit_batches, groups, policy_folder, kind):
    eight = groups(8)
    expected, loss = naive_gradient(policy_folder, eight, kind)
    batches = [batch_of(eight, budget) for budget in (10_000, 100, 1)]
    assert [len(batch.packs) for batch in batches] == [1, 2, 8]
    fit = fit_batches(batches, objective=OBJECTIVES[kind])
    for step, gradient in enumerate(fit.gradients):
        assert distance(gradient, expected) < 1e-5
        assert fit.logged[step]["train/loss"] == pytest.approx(loss, rel=1e-5)
        norm = torch.sqrt(sum(g.square().sum() for g in expected.values()))
        assert fit.logged[step]["train/grad_norm"] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_smaller_last_batch_is_its_own_mean(fit_batches, groups, policy_folder, kind):
    three = groups(3)
    fit = fit_batches([batch_of(three, 1)], objective=OBJECTIVES[kind])
    assert distance(fit.gradients[0], naive_gradient(policy_folder, three, kind)[0]) < 1e-5


def test_masked_rows_are_as_if_absent(fit_batches, groups):
    """Weights of 0 that hold NaN, against the same prompts without these rows."""
    masked = groups(6)
    without = [
        replace(
            group,
            response_ids=group.response_ids[1:],
            win_rates=group.win_rates[1:],
            row_weights=group.row_weights[1:],
            frozen_logps={name: logps[1:] for name, logps in group.frozen_logps.items()},
            pairs=(),
            pair_probs=(),
            pair_weights=(),
        )
        if group.row_weights[0] == 0
        else group
        for group in masked
    ]
    assert sum(len(group.response_ids) for group in without) < sum(len(group.response_ids) for group in masked)
    fit = fit_batches([batch_of(masked, 60), batch_of(without, 60)], objective=SPPO(eta=ETA))
    assert distance(*fit.gradients) < 1e-5


def test_a_batch_in_which_all_is_masked_moves_nothing(fit_batches, groups):
    dead = [replace(group, row_weights=[0.0] * len(group.row_weights)) for group in groups(3)]
    fit = fit_batches([batch_of(dead, 1)], objective=SPPO(eta=ETA))
    assert all(float(gradient.abs().max()) == 0 for gradient in fit.gradients[0].values())
    assert fit.logged[0]["train/grad_norm"] == 0
    assert "train/loss" not in fit.logged[0]


@pytest.mark.parametrize("share", [0.25, 4.0])
def test_clipping_is_torchs_on_the_whole_gradient(fit_batches, groups, share):
    eight = groups(8)
    free = fit_batches([batch_of(eight, 1)], objective=SPPO(eta=ETA))
    norm = free.logged[0]["train/grad_norm"]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in free.gradients[0].values()]
    for parameter, gradient in zip(parameters, free.gradients[0].values(), strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(parameters, share * norm)
    clipped = fit_batches([batch_of(eight, 1)], objective=SPPO(eta=ETA), max_grad_norm=share * norm)
    for ours, parameter in zip(clipped.gradients[0].values(), parameters, strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-6, atol=0)
    assert clipped.logged[0]["train/grad_norm"] == norm, "the norm before clipping"


def test_metrics_are_those_of_the_step_they_are_logged_at(fit_batches, groups):
    batches = [batch_of(groups(4, seed=seed), 1) for seed in range(4)]
    every = fit_batches(batches, objective=SPPO(eta=ETA))
    third = fit_batches(batches, objective=SPPO(eta=ETA), log_every_n_steps=3)
    assert set(every.logged) == {0, 1, 2, 3}
    assert third.logged == {0: every.logged[0], 3: every.logged[3]}


# --- the first step of a round ------------------------------------------------------------------------------------


class WithPrevious(SPPO):
    """Notes log pi / pi_t of every row it sees."""

    def __init__(self):
        super().__init__(eta=ETA)
        self.log_ratios = []

    def __call__(self, inputs):
        self.log_ratios += (inputs.policy_logps_R.detach() - inputs.frozen_logps["previous"]).tolist()
        return super().__call__(inputs)


def dropout_everywhere(folder, family, tiny):
    """A tiny policy whose configuration asks for dropout of 0.1."""
    if family == "llama":
        return tiny.save_policy(folder, attention_dropout=0.1)
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"vocab_size": 12, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_first_step_starts_from_pi_t(
    tmp_path, tiny, fit_batches, groups, monkeypatch, family, gradient_checkpointing
):
    folder = dropout_everywhere(tmp_path / "policy", family, tiny)
    dropping = AutoModelForCausalLM.from_pretrained(folder).train()
    ids = torch.arange(3, 12)[None]
    assert not torch.equal(dropping(ids).logits, dropping(ids).logits), "the example must have dropout"

    policy = SimpleNamespace(model=load_policy(str(folder)).eval())
    eight = []
    for group in groups(8, masked=False):
        rows = TokenRows(prompt_ids=[group.prompt_ids] * len(group.response_ids), response_ids=group.response_ids)
        eight.append(replace(group, frozen_logps={"previous": frozen_logps(policy, rows, 30).tolist()}))
    objective = WithPrevious()
    batches = [batch_of(eight, budget) for budget in (1, 150, 10_000)]
    if gradient_checkpointing:
        monkeypatch.setattr(PolicyModule, "configure_model", checkpointing(PolicyModule.configure_model))
    fit = fit_batches(batches, policy=folder, objective=objective)
    assert fit.module.policy.training
    assert fit.module.policy.is_gradient_checkpointing == gradient_checkpointing
    assert len(objective.log_ratios) == 3 * sum(len(group.response_ids) for group in eight)
    assert max(map(abs, objective.log_ratios)) <= 1e-4


def checkpointing(configure_model):
    def configured(self):
        configure_model(self)
        self.policy.gradient_checkpointing_enable()

    return configured


def test_every_round_of_a_run_starts_from_its_own_policy(finished_run):
    firsts = {step.round: step.step for step in reversed(finished_run.steps)}
    assert sorted(firsts) == [0, 1, 2]
    for step in firsts.values():
        gaps = torch.cat([i.policy_logps_R.detach() - i.frozen_logps["previous"] for i in finished_run.batches[step]])
        assert float(gaps.abs().max()) <= 1e-4
    last = torch.cat([i.policy_logps_R.detach() - i.frozen_logps["previous"] for i in finished_run.batches[15 - 1]])
    assert float(last.abs().max()) > 0.1, "training moves it"


# --- optimiser and learning rate ----------------------------------------------------------------------------------


def rates(steps_per_epoch, epochs_per_round, max_epochs, num_steps, **module_args):
    """The learning rate of each step of a run, as factors of the highest."""
    module = PolicyModule("unused", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0), **module_args)
    module.policy = torch.nn.Linear(1, 1)
    module._trainer = SimpleNamespace(
        max_epochs=max_epochs, datamodule=SimpleNamespace(epochs_per_round=epochs_per_round)
    )
    module._steps_per_epoch = steps_per_epoch
    config = module.configure_optimizers()
    optimizer, scheduler = config["optimizer"], config["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_the_horizon_of_the_rate_is_apart_from_the_stop():
    # SPPO's paper: the schedule of 18 epochs, a tenth of it warm-up, stopped after the first.
    first_epoch = rates(10, 1, 3, 18, lr_schedule_epochs=18, warmup_ratio=0.1)
    assert first_epoch == pytest.approx([k / 18 for k in range(18)])
    later = rates(10, 1, 3, 180, lr_schedule_epochs=18, warmup_ratio=0.1)
    assert later[18] == 1
    assert later[99] == pytest.approx((180 - 99) / 162)


def test_the_rate_falls_over_a_round_by_default():
    assert rates(2, 3, 9, 6, warmup_ratio=0.0) == pytest.approx([k / 6 for k in (6, 5, 4, 3, 2, 1)])


def test_the_rate_falls_over_the_run_where_the_optimiser_is_kept():
    found = rates(2, 1, 4, 8, warmup_ratio=0.25, reset_optimizer="never")
    assert found == pytest.approx([0, 0.5, *(k / 6 for k in (6, 5, 4, 3, 2, 1))])


def test_every_round_has_a_fresh_optimiser_and_rate(finished_run):
    by_round = {}
    for step in finished_run.steps:
        by_round.setdefault(step.round, []).append(step)
    for steps in by_round.values():
        assert steps[0].num_states == 0, "the optimiser remembers nothing of the round before"
        assert all(step.num_states > 0 for step in steps[1:])
        n = len(steps)
        assert [step.learning_rate for step in steps] == pytest.approx([0.02 * (n - k) / n for k in range(n)])


def test_never_keeps_the_optimiser(tiny, policy_folder, tmp_path):
    run = tiny.make_run(
        tmp_path / "run",
        policy_folder,
        module_args={"objective": SPPO(eta=2.0), "reset_optimizer": "never"},
        num_rounds=2,
        epochs_per_round=1,
        opponent=tiny.self_play(),
    ).fit()
    first_of_second = next(step for step in run.steps if step.round == 1)
    assert first_of_second.num_states > 0
    learning_rates = [step.learning_rate for step in run.steps]
    assert learning_rates == sorted(learning_rates, reverse=True)
    assert learning_rates[-1] > 0


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"warmup_ratio": 1.0}, r"model.warmup_ratio must lie in \[0, 1\), got 1.0"),
        ({"lr_schedule_epochs": 0}, "model.lr_schedule_epochs must be at least 1, got 0"),
        ({"max_grad_norm": 0.0}, "model.max_grad_norm must be positive, or null for no clipping, got 0.0"),
        ({"checkpoint_every_n_steps": 0}, "model.checkpoint_every_n_steps must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be(arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        PolicyModule("unused", **arguments)
