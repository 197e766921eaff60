import random
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sppo_lightning.functional.logps import TokenRows, response_logps, split_rows, token_logps

VOCAB = 60
SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def llama(**changes):
    return LlamaForCausalLM(LlamaConfig(**SHAPE | changes))


MODELS = {
    "llama": llama,
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=8, final_logit_softcapping=2.0)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    ),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=3.0)),
}


def build(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def some_rows():
    """Rows of very different lengths; responses contain token 0, which also pads, and one of them is empty."""
    draw = random.Random(0)
    tokens = lambda n: [draw.randrange(VOCAB) for _ in range(n)]  # noqa: E731
    prompts = [tokens(n) for n in (3, 20, 1, 7, 12, 5)]
    responses = [tokens(14), tokens(2), tokens(25), [], [0, 0, 7, 0], [2]]
    return TokenRows(prompt_ids=prompts, response_ids=responses)


def naive_logps(model, rows):
    """Row by row without padding, all logits, float32: what the words of the definition say."""
    totals = []
    for prompt, response in zip(rows.prompt_ids, rows.response_ids, strict=True):
        logps_TV = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].float().log_softmax(dim=-1)
        total = logps_TV.sum() * 0
        for offset, token in enumerate(response):
            total = total + logps_TV[len(prompt) - 1 + offset, token]
        totals.append(total)
    return torch.stack(totals)


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_unpadded_row_by_row_computation(name):
    model, rows = build(name), some_rows()
    logps_R = response_logps(model, rows)
    assert logps_R.dtype == torch.float32
    torch.testing.assert_close(logps_R, naive_logps(model, rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_equal_the_unpadded_ones(name):
    model, rows = build(name), some_rows()
    weight_R = torch.linspace(-1, 2, len(rows))

    def gradient(logps_R):
        parameters = list(model.parameters())
        grads = torch.autograd.grad((weight_R * logps_R).sum(), parameters, allow_unused=True)
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(parameters, grads, strict=True)
            ]
        )

    expected = gradient(naive_logps(model, rows))
    assert (gradient(response_logps(model, rows)) - expected).norm() <= 1e-5 * expected.norm()


def test_does_not_depend_on_the_other_rows():
    model, rows = build("llama"), some_rows()
    together = response_logps(model, rows)
    for row in range(len(rows)):
        alone = TokenRows(prompt_ids=rows.prompt_ids[row : row + 1], response_ids=rows.response_ids[row : row + 1])
        torch.testing.assert_close(response_logps(model, alone), together[row : row + 1], atol=1e-5, rtol=0)


def test_head_never_sees_prompts_or_padding():
    model, rows, seen = build("llama"), some_rows(), []
    model.lm_head.register_forward_hook(lambda head, args, output: seen.append(args[0].shape))
    response_logps(model, rows)
    assert seen == [(1, sum(map(len, rows.response_ids)), 32)]
    rectangle = rows.to_padded(pad_id=0).input_ids_RT
    assert model(input_ids=rectangle).logits.shape == (*rectangle.shape, VOCAB), "the hook must be gone"


def test_model_without_output_embeddings():
    class Wrapped(nn.Module):
        """Computes logits without a head module that could be hooked."""

        def __init__(self):
            super().__init__()
            self.inner = build("llama")

        def get_output_embeddings(self):
            return None

        def forward(self, **inputs):
            return self.inner(**inputs)

    wrapped, rows = Wrapped(), some_rows()
    torch.testing.assert_close(response_logps(wrapped, rows), naive_logps(wrapped.inner, rows), atol=1e-4, rtol=0)


@torch.no_grad()
def test_bf16_weights_are_normalised_and_summed_in_float32():
    model = build("llama").bfloat16()
    draw = random.Random(1)
    rows = TokenRows(prompt_ids=[[1, 2]], response_ids=[[draw.randrange(VOCAB) for _ in range(200)]])
    logits_TV = model(input_ids=torch.tensor([[*rows.prompt_ids[0], *rows.response_ids[0]]])).logits[0, 1:-1]
    targets_T1 = torch.tensor(rows.response_ids[0])[:, None]
    exact = logits_TV.double().log_softmax(-1).gather(1, targets_T1).sum()
    in_bf16 = logits_TV.log_softmax(-1).gather(1, targets_T1).double().sum()
    logps_R = response_logps(model, rows)
    assert logps_R.dtype == torch.float32
    assert abs(float(logps_R[0]) - float(exact)) < 1e-3
    assert abs(float(in_bf16) - float(exact)) > 1e-2, "this model would not show a log-softmax in bfloat16"


def test_under_autocast_the_result_is_float32_and_close():
    model, rows = build("llama"), some_rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logps_R = response_logps(model, rows)
    assert logps_R.dtype == torch.float32
    torch.testing.assert_close(logps_R, naive_logps(model, rows), atol=0.0, rtol=0.05)
    logps_R.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_more_tokens_than_one_chunk_of_logits(monkeypatch):
    model, rows = build("llama"), some_rows()
    whole = response_logps(model, rows)
    monkeypatch.setattr("sppo_lightning.functional.logps._LOGIT_ROWS", 5)
    torch.testing.assert_close(response_logps(model, rows), whole, atol=1e-6, rtol=0)


def test_empty_responses_give_zero_and_a_graph():
    model = build("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logps_R = response_logps(model, TokenRows(prompt_ids=[[1], [4, 5]], response_ids=[[], []]))
        logps_R.sum().backward()
    assert logps_R.tolist() == [0.0, 0.0]
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_without_autograd_there_is_no_graph():
    with torch.no_grad():
        assert not response_logps(build("llama"), some_rows()).requires_grad


@pytest.mark.parametrize(
    ("prompts", "responses", "words"),
    [([[1]], [], "1 prompts and 0 responses"), ([], [], "there must be a row"), ([[1], []], [[2], [2]], "row 1")],
)
def test_impossible_rows_are_refused(prompts, responses, words):
    with pytest.raises(ValueError, match=words):
        TokenRows(prompt_ids=prompts, response_ids=responses)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_split_rows_is_a_partition_within_the_budget(lengths, budget):
    batches = split_rows(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    longest_first = [lengths[row] for batch in batches for row in batch]
    assert longest_first == sorted(lengths, reverse=True)


def test_split_rows_fills_batches_with_neighbours_in_length():
    assert split_rows([2, 9, 3, 8], max_padded_tokens=18) == [[1, 3], [2, 0]]
    assert split_rows([4, 4, 4], max_padded_tokens=8) == [[0, 1], [2]], "equal lengths keep their order"
    assert split_rows([30, 2], max_padded_tokens=8) == [[0], [1]], "a row over the budget is alone"


@torch.no_grad()
def test_token_logps_are_those_of_each_token_and_sum_to_the_response_s():
    torch.manual_seed(0)
    model = llama().eval()
    rows = TokenRows(prompt_ids=[[1, 5, 9], [1, 7]], response_ids=[[4, 2], [8, 8, 2]])
    for prompt, response, logps, total in zip(
        rows.prompt_ids, rows.response_ids, token_logps(model, rows), response_logps(model, rows), strict=True
    ):
        expected = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert torch.allclose(logps, expected[torch.arange(len(response)), response], atol=1e-5)
        assert torch.equal(logps.sum(), total)
