"""General preference models: the published formula, a cycle that only they can say, and one forward pass a response."""

import math

import pytest
import torch
from safetensors.torch import load_file

from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles import GeneralPreference
from sppo_lightning.selfplay.win_rates import mean_scores

from .examples import candidates
from .judge_models import chat_tokenizer, save_classifier, save_gpm

KETTLE = "Is the price of the kettle fair?"
TEXTS = ["yes", "no, not at all", "kettle " * 9]
ASKED = {KETTLE: TEXTS, "Hm?": ["a", "b"]}


def states(folder, text):
    from transformers import LlamaModel

    ids = chat_tokenizer()(f"<|user|>{KETTLE}<|end|><|assistant|>{text}<|end|>", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return LlamaModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize("prompt_head", [True, False])
def test_it_is_the_published_formula(tmp_path, prompt_head):
    """As gpm_example_usage.py has it: chosen @ R.T @ rejected, R block diagonal with [0, -b; b, 0]."""
    folder = save_gpm(tmp_path, num_values=4, prompt_head=prompt_head)
    heads = load_file(folder / "model.safetensors")
    seen = [states(folder, text) for text in TEXTS]
    vectors = [torch.nn.functional.normalize(heads["value_head.weight"] @ state[-1], dim=0) for state in seen]
    eigenvalues = torch.ones(2)
    if prompt_head:
        eigenvalues = (heads["prompt_head.weight"] @ seen[0][len(f"<{KETTLE}>") - 1]).softmax(0)
    R = torch.zeros(4, 4)
    for k in range(2):
        R[2 * k, 2 * k + 1], R[2 * k + 1, 2 * k] = -eigenvalues[k], eigenvalues[k]
    log_odds = torch.tensor([[float(ours @ R.T @ theirs) / 0.3 for theirs in vectors] for ours in vectors])
    matrix = GeneralPreference(str(folder), tau=0.3, device="cpu").compare(candidates(ASKED))
    torch.testing.assert_close(matrix.probs_BKJ[0], torch.sigmoid(log_odds), atol=1e-4, rtol=0)
    # What GPO regresses onto: the mean of s over the other responses.
    torch.testing.assert_close(mean_scores(matrix)[0], log_odds.sum(1) / 2, atol=1e-3, rtol=0)
    assert mean_scores(matrix)[1, 2].isnan()


def test_it_can_say_a_cycle(tmp_path):
    """Three responses a third of a turn apart: each beats the next, which no score per response can express."""
    start = save_gpm(tmp_path / "start")
    last = torch.stack([states(start, text)[-1] for text in TEXTS])
    turns = torch.tensor([2 * math.pi * i / 3 for i in range(3)])
    value_head = torch.linalg.lstsq(last, torch.stack([turns.cos(), turns.sin()], 1)).solution.T
    folder = save_gpm(tmp_path / "cycle", num_values=2, prompt_head=False, value_head=value_head)
    matrix = GeneralPreference(str(folder), tau=0.5, device="cpu").compare(candidates({KETTLE: TEXTS}))
    expected = 1 / (1 + math.exp(-math.sin(2 * math.pi / 3) / 0.5))
    found = [float(matrix.probs_BKJ[0, i, (i + 1) % 3]) for i in range(3)]
    assert found == pytest.approx([expected] * 3, abs=1e-3)
    assert expected > 0.8
    assert matrix.scores_BK[0].tolist() == pytest.approx([0] * 3, abs=1e-3)


def test_the_length_of_the_vector_counts_if_it_is_not_normalised(tmp_path):
    folder = save_gpm(tmp_path, prompt_head=False)
    unit, raw = (
        torch.logit(GeneralPreference(str(folder), 5.0, normalize, device="cpu").compare(candidates(ASKED)).probs_BKJ)
        for normalize in (True, False)
    )
    head = load_file(folder / "model.safetensors")["value_head.weight"]
    norms = [float((head @ states(folder, text)[-1]).norm()) for text in TEXTS]
    assert float(raw[0, 0, 1] / unit[0, 0, 1]) == pytest.approx(norms[0] * norms[1], rel=1e-2)


def test_each_response_is_read_once(tmp_path, monkeypatch):
    judge = GeneralPreference(str(save_gpm(tmp_path)), batch_tokens=1, device="cpu")
    judge.compare(candidates({"x": ["a"]}))
    read = []
    forward = judge._network.forward
    monkeypatch.setattr(judge._network, "forward", lambda *inputs: read.append(len(inputs[0])) or forward(*inputs))
    judge.compare(candidates({KETTLE: list("abcdefgh")}))
    assert read == [1] * 8


def test_a_reward_model_is_no_gpm(tmp_path):
    folder = save_classifier(tmp_path)
    with pytest.raises(ConfigError, match=r"lack value_head\.weight, so this is another kind of model"):
        GeneralPreference(str(folder), device="cpu").check_prompts([])


def test_heads_that_do_not_fit(tmp_path):
    odd = save_gpm(tmp_path / "odd", num_values=2, prompt_head=False, value_head=torch.randn(3, 16))
    with pytest.raises(ConfigError, match="even number of values, it gives 3"):
        GeneralPreference(str(odd), device="cpu").compare(candidates(ASKED))
    unlike = save_gpm(tmp_path / "unlike", num_values=2, value_head=torch.randn(6, 16))
    with pytest.raises(ConfigError, match="has 1 eigenvalues for 6 values"):
        GeneralPreference(str(unlike), device="cpu").compare(candidates(ASKED))


def test_a_judge_without_a_chat_template(tmp_path):
    folder = save_gpm(tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="has no chat template"):
        GeneralPreference(str(folder), device="cpu").check_prompts([])


@pytest.mark.parametrize("tau", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_cannot_be(tau):
    with pytest.raises(ConfigError, match="tau must be positive"):
        GeneralPreference("anything", tau=tau)
