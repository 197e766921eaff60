"""The loader hands out every prompt once, from wherever it is entered, to however many ranks."""

import random

import pytest
import torch

from sppo_lightning.selfplay.dataset import PromptGroup, RoundDataset
from sppo_lightning.training.loader import StepLoader


def dataset(num_prompts, seed, round_index=0):
    """Prompt b has b + 1 tokens, by which it is known again, and two responses."""
    groups = [
        PromptGroup(
            prompt_id=f"p{b}",
            prompt_ids=[1] * (b + 1),
            response_ids=[[5, 2], [6, 2]],
            candidates=(0, 1),
            win_rates=(0.7, 0.3),
            scores=None,
            row_weights=(1.0, 1.0),
            pairs=((0, 1),),
            pair_probs=(0.8,),
            pair_weights=(1.0,),
            frozen_logps={},
            log_z=None,
        )
        for b in range(num_prompts)
    ]
    return RoundDataset(groups, seed=seed, round_index=round_index)


def loaders(data, batch, world, epoch=0, state=None):
    """One loader a rank, entered at `state`."""
    made = [
        StepLoader(data, epoch=epoch, global_batch_prompts=batch, max_pack_tokens=500, rank=rank, world_size=world)
        for rank in range(world)
    ]
    for loader in made:
        if state is not None:
            loader.load_state_dict(state)
    return made


def prompts_in(batches):
    """The prompts of one global step over all ranks, sorted; each must bring its two rows."""
    lengths = [len(ids) for batch in batches for pack in batch.packs for ids in pack.rows.prompt_ids]
    assert sorted(lengths)[::2] == sorted(lengths)[1::2]
    return [length - 1 for length in sorted(lengths)[::2]]


@pytest.mark.parametrize("case", range(200))
def test_no_prompt_twice_or_missed_wherever_a_run_stops(case):
    rng = random.Random(case)
    num_prompts, batch = rng.randint(1, 40), rng.randint(1, 12)
    world, later_world, epoch = rng.randint(1, 4), rng.randint(1, 4), rng.randint(0, 3)
    data = dataset(num_prompts, seed=case)
    plan = data.step_plan(epoch, batch)
    stop = rng.randint(0, len(plan))
    before = loaders(data, batch, world, epoch)
    assert {len(loader) for loader in before} == {len(plan)}
    iterators = [iter(loader) for loader in before]
    seen = [prompts_in([next(iterator) for iterator in iterators]) for _ in range(stop)]
    (state,) = {loader.state_dict()["position"] for loader in before}
    assert state == stop % len(plan)
    if stop == len(plan):
        assert all(next(iterator, None) is None for iterator in iterators)
    else:
        after = loaders(data, batch, later_world, epoch, {"position": state})
        assert {len(loader) for loader in after} == {len(plan)}, "Lightning counts from the epoch's start"
        assert {loader.state_dict()["position"] for loader in after} == {state}
        seen += [prompts_in(step) for step in zip(*after, strict=True)]
    assert seen == [sorted(step) for step in plan]
    assert sorted(prompt for step in seen for prompt in step) == list(range(num_prompts))


def test_the_state_arrives_after_the_iterator_was_made():
    data = dataset(9, seed=0)
    (loader,) = loaders(data, 2, 1)
    iterator = iter(loader)
    loader.load_state_dict({"position": 3})
    assert [prompts_in([batch]) for batch in iterator] == [sorted(step) for step in data.step_plan(0, 2)[3:]]


def test_a_loader_that_was_resumed_begins_the_next_pass_at_its_start():
    (loader,) = loaders(dataset(9, seed=0), 2, 1, state={"position": 3})
    assert len(list(loader)) == 2
    assert len(list(loader)) == 5


def test_the_end_of_an_epoch_is_the_start_of_another_round_s():
    (done,) = loaders(dataset(10, seed=0), 2, 1)
    list(done)
    (shorter,) = loaders(dataset(3, seed=0, round_index=1), 2, 1, state=done.state_dict())
    assert len(list(shorter)) == 2


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module", params=[5, 10], ids=["within an epoch", "between rounds"])
def interrupted_run(request, tiny, policy_folder, tmp_path_factory):
    """The finished run's settings, without its callbacks, stopped by an error after a step and started again."""
    from lightning.pytorch import Callback

    class Stop(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == request.param:
                raise StoppedError

    root = tmp_path_factory.mktemp("interrupted")
    first = tiny.make_run(root, policy_folder, [Stop()])
    with pytest.raises(StoppedError):
        first.fit()
    second = tiny.make_run(root, policy_folder).fit(first.module.run_folder.last_checkpoint)
    return first, second


def test_lightning_s_resume_goes_on_behind_the_last_checkpoint(interrupted_run, finished_run):
    first, second = interrupted_run
    steps = [step.step for step in first.steps] + [step.step for step in second.steps]
    assert steps == sorted({*steps}) == [step.step for step in finished_run.steps]
    for step in second.steps:
        theirs, ours = finished_run.batches[step.step], second.batches[step.step]
        assert len(theirs) == len(ours)
        for one, other in zip(theirs, ours, strict=True):
            assert torch.equal(one.policy_logps_R, other.policy_logps_R)
            assert torch.equal(one.pairs_M2, other.pairs_M2)


def test_the_weights_are_those_of_a_run_that_was_not_stopped_and_had_every_callback(interrupted_run, finished_run):
    for name, weights in finished_run.module.policy.state_dict().items():
        assert torch.equal(interrupted_run[1].module.policy.state_dict()[name], weights)


def test_training_goes_on_in_training_mode(interrupted_run):
    assert interrupted_run[1].module.policy.training
