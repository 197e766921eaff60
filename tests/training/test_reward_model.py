"""The Bradley-Terry reward model: what it learns, and that its fit is a function of its arguments."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sppo_lightning.errors import ConfigError
from sppo_lightning.selfplay.comparisons import PromptComparisons
from sppo_lightning.training.policy import StoredPolicy, load_tokenizer
from sppo_lightning.training.progress import NullProgress
from sppo_lightning.training.reward_model import BradleyTerryRewardModel
from sppo_lightning.types import Candidates, Prompt, SamplingConfig

GOOD = 5  # the more of this token, the better the response


@pytest.fixture(scope="module")
def policies(policy_folder):
    tokenizer = load_tokenizer(str(policy_folder))
    policy = StoredPolicy("start", str(policy_folder), tokenizer, torch.float32, torch.device("cpu"))
    return SimpleNamespace(named=lambda name: policy)


def comparisons(count, seed=0, num_responses=4):
    """Prompts whose responses are judged by P = sigmoid(2 (good tokens - good tokens'))."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for b in range(count):
        lengths = torch.randint(1, 7, (num_responses,), generator=generator).tolist()
        ids = [[*torch.randint(3, 12, (n,), generator=generator).tolist(), 2] for n in lengths]
        quality = torch.tensor([float(tokens.count(GOOD)) for tokens in ids])
        pairs = [(i, j) for i in range(num_responses) for j in range(i + 1, num_responses)]
        found.append(
            PromptComparisons(
                prompt_id=f"p{b}",
                prompt_ids=[1, 3 + b % 9],
                response_ids=ids,
                pairs=pairs,
                probs=[torch.sigmoid(2 * (quality[i] - quality[j])).item() for i, j in pairs],
            )
        )
    return found


def candidates(prompts):
    return Candidates(
        prompts=[
            Prompt(prompt_id=prompt.prompt_id, messages=({"role": "user", "content": "w1"},)) for prompt in prompts
        ],
        prompt_token_ids=[prompt.prompt_ids for prompt in prompts],
        token_ids=[prompt.response_ids for prompt in prompts],
        texts=[[""] * len(prompt.response_ids) for prompt in prompts],
        finish_reasons=[["stop"] * len(prompt.response_ids) for prompt in prompts],
        policy="start",
        sampling=SamplingConfig(),
    )


def fit(model, prompts, folder, policies, seed=3):
    folder.mkdir()
    return model.fit(prompts, folder, policies=policies, seed=seed, open_bar=lambda n: NullProgress()("", n, ""))


QUICK = {"learning_rate": 0.01, "epochs": 6, "batch_prompts": 16}


def test_it_learns_what_is_better_and_how_certainly(policies, tmp_path):
    model = BradleyTerryRewardModel(**QUICK, held_back=0.2)
    with torch.no_grad():  # as a round is played
        metrics = fit(model, comparisons(240), tmp_path / "fit", policies)
    assert metrics["round/reward_model_comparisons"] == 192 * 6
    assert metrics["round/reward_model_accuracy"] > 0.9
    fresh = comparisons(40, seed=9)
    matrix = model.oracle(tmp_path / "fit", policies).compare(candidates(fresh))
    expected = torch.tensor([p for prompt in fresh for p in prompt.probs])
    learnt = torch.stack([matrix.probs_BKJ[b, i, j] for b, prompt in enumerate(fresh) for i, j in prompt.pairs])
    assert (learnt - expected).abs().mean() < 0.3 * (0.5 - expected).abs().mean()


def test_win_rates_are_the_sigmoids_of_the_scores(policies, tmp_path):
    model = BradleyTerryRewardModel(**QUICK)
    fit(model, comparisons(20), tmp_path / "fit", policies)
    oracle = model.oracle(tmp_path / "fit", policies)
    ragged = [comparisons(1)[0], comparisons(1, seed=1, num_responses=2)[0]]
    matrix = oracle.compare(candidates(ragged))
    scores_BK = matrix.scores_BK
    assert scores_BK[1, 2:].isnan().all()
    torch.testing.assert_close(matrix.probs_BKJ[0], torch.sigmoid(scores_BK[0, :, None] - scores_BK[0]))
    # Alone, in another order and after the weights were freed, a response has the same reward.
    alone = oracle.compare(candidates(ragged[1:])).scores_BK
    oracle.close()
    torch.testing.assert_close(oracle.compare(candidates(ragged[::-1])).scores_BK[0, :2], alone[0])
    torch.testing.assert_close(scores_BK[1, :2], alone[0])


def test_nothing_learnt_is_a_coin(policies, tmp_path):
    metrics = fit(BradleyTerryRewardModel(learning_rate=1e-12), comparisons(30), tmp_path / "fit", policies)
    assert metrics["round/reward_model_loss"] == pytest.approx(0.693147, abs=1e-4)
    metrics = fit(BradleyTerryRewardModel(held_back=0.0), comparisons(5), tmp_path / "all", policies)
    assert metrics == {"round/reward_model_comparisons": 30}


def test_the_same_arguments_give_the_same_model(policies, tmp_path):
    def weights(name, seed=3, **settings):
        torch.manual_seed(len(name))  # the run's own random state plays no part
        fit(BradleyTerryRewardModel(**QUICK | settings), comparisons(20), tmp_path / name, policies, seed)
        return (tmp_path / name / "model.safetensors").read_bytes()

    before = weights("first")
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    fit(BradleyTerryRewardModel(**QUICK), comparisons(20), tmp_path / "again", policies)
    assert torch.equal(torch.random.get_rng_state(), state), "nor does it change it"
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == before
    assert weights("another seed", seed=4) != before


def test_packs_change_nothing_but_rounding(policies, tmp_path):
    tight = BradleyTerryRewardModel(**QUICK, max_pack_tokens=30)
    wide = BradleyTerryRewardModel(**QUICK)
    scores = []
    for model in (tight, wide):
        fit(model, comparisons(20), tmp_path / str(model.max_pack_tokens), policies)
        oracle = model.oracle(tmp_path / str(model.max_pack_tokens), policies)
        scores.append(oracle.compare(candidates(comparisons(4, seed=2))).scores_BK)
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)


def test_a_prompt_is_fitted_or_measured_never_both(policies):
    rounds = [*comparisons(10), *comparisons(10, seed=1)]  # the same prompts in two rounds
    fitted, kept = BradleyTerryRewardModel(held_back=0.3)._split(rounds, seed=0)
    assert (len(fitted), len(kept)) == (14, 6)
    assert {p.prompt_id for p in fitted}.isdisjoint(p.prompt_id for p in kept)
    assert len(BradleyTerryRewardModel()._split(comparisons(1), seed=0)[0]) == 1


def test_a_body_with_another_tokenizer_is_refused(policies, tiny, tmp_path):
    tiny.llama().save_pretrained(tmp_path / "body")
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens("w99")
    tokenizer.save_pretrained(tmp_path / "body")
    model = BradleyTerryRewardModel(body=str(tmp_path / "body"))
    with pytest.raises(ConfigError, match=r"data\.reward_model\.body: .* has another tokenizer than the policy"):
        fit(model, comparisons(2), tmp_path / "fit", policies)


def test_a_body_of_one_s_own(policies, tiny, tmp_path):
    body = tiny.save_policy(tmp_path / "body", num_hidden_layers=1)
    fit(BradleyTerryRewardModel(**QUICK, body=str(body)), comparisons(4), tmp_path / "fit", policies)
    assert '"num_hidden_layers": 1' in (tmp_path / "fit" / "config.json").read_text()


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"epochs": 0}, r"data\.reward_model\.epochs must be at least 1, got 0"),
        ({"held_back": 1.0}, r"data\.reward_model\.held_back must be at least 0 and below 1, got 1.0"),
        ({"learning_rate": 0.0}, r"data\.reward_model\.learning_rate must be above 0, got 0.0"),
    ],
)
def test_settings_that_cannot_be(settings, rule):
    with pytest.raises(ConfigError, match=rule):
        BradleyTerryRewardModel(**settings)
