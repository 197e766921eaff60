import pytest
import torch

from sppo_lightning.errors import RunFolderError
from sppo_lightning.objectives import SPPO
from sppo_lightning.selfplay.dataset import PromptGroup, RoundDataset, make_pack
from sppo_lightning.selfplay.pairing import BestWorst


def group(b, responses=((5, 6), (7,), (8, 9, 2)), pairs=((0, 1), (2, 0)), **changes):
    """A prompt of b + 1 tokens whose every number tells where it comes from."""
    R, M = len(responses), len(pairs)
    fields = {
        "prompt_id": f"p{b}",
        "prompt_ids": list(range(1, b + 2)),
        "response_ids": responses,
        "candidates": range(R),
        "win_rates": [b + k / 10 for k in range(R)],
        "scores": [b - k / 10 for k in range(R)],
        "row_weights": [1.0 + k for k in range(R)],
        "pairs": pairs,
        "pair_probs": [b + m / 100 for m in range(M)],
        "pair_weights": [2.0 + m for m in range(M)],
        "frozen_logps": {"previous": [-b - k for k in range(R)], "anchor": [b * 10 + k for k in range(R)]},
        "log_z": float(b),
    }
    return PromptGroup(**fields | changes)


def test_a_pack_is_its_prompts_one_after_the_other():
    pack = make_pack([group(4), group(1, responses=((3,), (4, 4)), pairs=()), group(2)])
    inputs = pack.inputs(torch.arange(8.0))
    assert pack.rows.prompt_ids == [[1, 2, 3, 4, 5]] * 3 + [[1, 2]] * 2 + [[1, 2, 3]] * 3
    assert pack.rows.response_ids == [(5, 6), (7,), (8, 9, 2), (3,), (4, 4), (5, 6), (7,), (8, 9, 2)]
    assert inputs.policy_logps_R.tolist() == list(range(8))
    assert inputs.num_tokens_R.tolist() == [2, 1, 3, 1, 2, 2, 1, 3]
    assert inputs.prompt_R.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert inputs.win_rate_R.tolist() == pytest.approx([4, 4.1, 4.2, 1, 1.1, 2, 2.1, 2.2])
    assert inputs.score_R.tolist() == pytest.approx([4, 3.9, 3.8, 1, 0.9, 2, 1.9, 1.8])
    assert inputs.weight_R.tolist() == [1, 2, 3, 1, 2, 1, 2, 3]
    assert inputs.pairs_M2.tolist() == [[0, 1], [2, 0], [5, 6], [7, 5]]
    assert inputs.pair_prob_M.tolist() == pytest.approx([4, 4.01, 2, 2.01])
    assert inputs.weight_M.tolist() == [2, 3, 2, 3]
    assert inputs.frozen_logps["previous"].tolist() == [-4, -5, -6, -1, -2, -2, -3, -4]
    assert inputs.frozen_logps["anchor"].tolist() == [40, 41, 42, 10, 11, 20, 21, 22]
    assert inputs.log_z_R.tolist() == [4, 4, 4, 1, 1, 2, 2, 2]


def test_a_pack_without_pairs_scores_or_estimates():
    pack = make_pack([group(0, pairs=(), scores=None, log_z=None, frozen_logps={})])
    assert pack.targets.pairs_M2.shape == (0, 2)
    assert pack.targets.weight_M.shape == pack.targets.pair_prob_M.shape == (0,)
    assert pack.targets.score_R is None
    assert pack.targets.log_z_R is None
    assert pack.targets.frozen_logps == {}


def dataset(num_prompts=23, seed=0, round_index=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 30, (num_prompts, 3), generator=generator).tolist()
    groups = [group(b, responses=[[7] * length for length in row]) for b, row in enumerate(lengths)]
    return RoundDataset(groups, seed=seed, round_index=round_index)


def test_the_plan_is_a_function_of_seed_round_and_epoch_only():
    plan = dataset(seed=1, round_index=2).step_plan(3, 5)
    torch.manual_seed(99)
    assert dataset(seed=1, round_index=2).step_plan(3, 5) == plan
    others = [(1, 2, 4), (1, 3, 3), (2, 2, 3)]
    for seed, round_index, epoch in others:
        assert dataset(seed=seed, round_index=round_index).step_plan(epoch, 5) != plan
    assert [len(step) for step in plan] == [5, 5, 5, 5, 3]
    assert sorted(index for step in plan for index in step) == list(range(23))
    flat = [index for step in plan for index in step]
    assert flat == [index for step in dataset(seed=1, round_index=2).step_plan(3, 64) for index in step]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("max_pack_tokens", [1, 60, 200, 10_000])
@pytest.mark.parametrize("packed", [True, False])
def test_ranks_and_packs_split_a_step_by_whole_prompts(world_size, max_pack_tokens, packed):
    data, indices = dataset(), [3, 8, 20, 1, 22]
    seen = []
    for rank in range(world_size):
        batch = data.batch(indices, rank=rank, world_size=world_size, max_pack_tokens=max_pack_tokens, packed=packed)
        assert batch.num_prompts == 5
        for pack in batch.packs:
            rows = pack.rows
            num_prompts = int(pack.targets.prompt_R.max()) + 1
            assert len(rows) == 3 * num_prompts, "all rows of a prompt travel together"
            tokens = sum(prompt + sum(responses) for prompt, responses in rows.prompt_lengths)
            assert num_prompts == 1 or (tokens if packed else len(rows) * max(rows.lengths)) <= max_pack_tokens
            seen += [
                (len(prompt) - 1, len(ids)) for prompt, ids in zip(rows.prompt_ids, rows.response_ids, strict=True)
            ]
    expected = [(b, len(ids)) for b in indices for ids in data.groups[b].response_ids]
    assert sorted(seen) == sorted(expected), "each row once"


def test_a_big_budget_is_one_pack():
    assert len(dataset().batch(range(5), rank=0, world_size=1, max_pack_tokens=10_000).packs) == 1


def test_a_rank_may_have_nothing():
    assert dataset().batch([0, 1], rank=2, world_size=3, max_pack_tokens=100).packs == []


def test_a_round_is_read_back_as_it_was_played(play):
    folder = play(needs=("previous", "anchor"), pairing=BestWorst()).folder
    objective = SPPO(eta=2.0, log_z="estimate")
    data = RoundDataset.load(folder, needs=("anchor",), log_z=objective.log_z, seed=4)
    assert data.round_index == 0
    rows = {(row["prompt_id"], row["candidate"]): row for row in folder.read_stage("candidates", 3).to_pylist()}
    logps = {
        (row["prompt_id"], row["candidate"]): row["logp"]
        for row in folder.read_stage("reference_logps/anchor", 3).to_pylist()
    }
    targets = folder.read_table("targets").to_pylist()
    pairs = {row["prompt_id"]: row for row in folder.read_table("pairs").to_pylist()}
    assert len(data.groups) == len({row["prompt_id"] for row in targets if row["trained"]}) > 2
    for group in data.groups:
        mine = [row for row in targets if row["prompt_id"] == group.prompt_id]
        assert group.response_ids == [rows[group.prompt_id, k]["token_ids"] for k in group.candidates]
        assert group.win_rates == [mine[k]["win_rate"] for k in group.candidates]
        assert group.scores == [mine[k]["score"] for k in group.candidates]
        assert list(group.frozen_logps) == ["anchor"]
        assert group.frozen_logps["anchor"] == [logps[group.prompt_id, k] for k in group.candidates]
        ((chosen, rejected),) = group.pairs
        pair = pairs[group.prompt_id]
        assert (group.candidates[chosen], group.candidates[rejected]) == (pair["chosen"], pair["rejected"])
        assert group.pair_probs == [pair["pair_prob"]]
        # From all four win rates, though only two rows are trained.
        assert group.log_z == pytest.approx(objective.log_z(torch.tensor([row["win_rate"] for row in mine])))


def test_a_damaged_round_is_not_trained_on(play):
    folder = play().folder
    path = folder.path / "targets.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=r"targets\.parquet is damaged"):
        RoundDataset.load(folder, needs=("previous",), log_z=lambda rates: None, seed=0)
