"""Two threads run one policy at the same time, and neither notices."""

import threading

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sppo_lightning.engines.transformers import Transformers
from sppo_lightning.functional.logps import response_logps
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.training.policy import LivePolicy, load_policy, load_tokenizer
from sppo_lightning.training.twin import TwinPolicies, twin_of
from sppo_lightning.types import Prompt


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def test_a_twin_shares_weights_and_nothing_else(model):
    twin = twin_of(model)
    assert [id(parameter) for parameter in twin.parameters()] == [id(parameter) for parameter in model.parameters()]
    assert twin.lm_head.weight is twin.model.embed_tokens.weight, "tied as in the original"
    assert not set(map(id, twin.modules())) & set(map(id, model.modules()))
    twin.set_attn_implementation("eager")
    twin.lm_head.forward = None
    model.train()
    assert model.config._attn_implementation != "eager"
    assert "forward" not in vars(model.lm_head)
    assert not twin.training


def test_modules_that_cannot_be_told_apart_from_the_original_have_none(model):
    forward = model.model.forward
    model.model.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    assert twin_of(model) is None


class Named:
    def __init__(self, model):
        self.model = model

    def named(self, name):
        return LivePolicy(name, "nowhere", self.model, tokenizer=None)


def test_only_the_model_in_use_is_replaced(model):
    twin, other = twin_of(model), LlamaForCausalLM(model.config)
    assert TwinPolicies(Named(model), model, twin).named("previous").model is twin
    assert TwinPolicies(Named(other), model, twin).named("anchor").model is other


@torch.no_grad()
def test_generating_and_the_reference_pass_at_once_give_what_they_give_alone(policy_folder):
    model = load_policy(str(policy_folder)).eval()
    engine = Transformers(max_new_tokens=12)
    engine.open(LivePolicy("start", str(policy_folder), model, load_tokenizer(str(policy_folder))))
    prompts = [Prompt(prompt_id=t, messages=({"role": "user", "content": t},), metadata={}) for t in ("w1 w2", "w3")]
    rows = TokenRows(prompt_ids=[[1, 5, 9, 4]] * 3, response_ids=[[7, 8, 2], [9] * 6, [4, 2]])

    def answers():
        with torch.no_grad():
            return engine.generate(prompts, [[1, 2, 3], [4, 5, 6]]).token_ids

    def logps():
        with torch.no_grad():
            return response_logps(twin, rows).tolist()

    twin = twin_of(model)
    alone = answers(), logps()
    differing, over = [], threading.Event()

    def ask_on():
        while not over.is_set():
            if logps() != alone[1]:
                differing.append("log-probabilities")

    thread = threading.Thread(target=ask_on)
    thread.start()
    for _ in range(15):
        if answers() != alone[0]:
            differing.append("responses")
    over.set()
    thread.join()
    assert differing == []
