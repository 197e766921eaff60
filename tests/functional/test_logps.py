"""Log-probabilities of responses are those of the definition, in every layout, for every family of models."""

import random
import warnings

import pytest
import torch
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
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sppo_lightning.functional import forward, fused_head
from sppo_lightning.functional.forward import PADDED, Layout
from sppo_lightning.functional.layout import layout_of, use_layout
from sppo_lightning.functional.logps import response_logps, response_loss, token_logps
from sppo_lightning.functional.packs import pad_rows
from sppo_lightning.functional.rows import TokenRows

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


def biased():
    model = llama()
    model.lm_head.bias = nn.Parameter(torch.randn(VOCAB))
    return model


MODELS = {
    "llama": llama,
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=8, final_logit_softcapping=2.0)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6)),
    "tied": lambda: llama(tie_word_embeddings=True),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    ),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SHAPE, logit_scale=0.25)),
    "granite": lambda: GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=3.0)),
    "biased": biased,
}
LAYOUTS = [Layout(packed=packed, fused=fused) for packed in (True, False) for fused in (True, False)]


def build(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def as_published(name):
    """The same weights with transformers' spelt-out attention, which is the only one that soft-caps Gemma-2's."""
    model = build(name)
    model.set_attn_implementation("eager")
    return model


def some_rows():
    """Rows of very different lengths, prompts alone and shared, a prompt that comes back later.

    Responses contain token 0, which also pads, and some are empty, one of them the first of its prompt.
    """
    draw = random.Random(0)
    tokens = lambda n: [draw.randrange(VOCAB) for _ in range(n)]  # noqa: E731
    three, twenty, one, seven, twelve = (tokens(n) for n in (3, 20, 1, 7, 12))
    return TokenRows(
        prompt_ids=[three, three, three, twenty, one, one, seven, seven, twelve, three],
        response_ids=[
            tokens(14),
            tokens(2),
            tokens(25),
            tokens(2),
            tokens(25),
            tokens(9),
            [],
            [0, 0, 7, 0],
            [2],
            tokens(5),
        ],
    )


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


def loss_of_rows(logps_R):
    """Each row's loss depends on its own log-probability, in a way that is not linear."""
    weight_R = torch.linspace(-1, 2, len(logps_R))
    return (weight_R * logps_R + 0.01 * logps_R.square()).sum()


def loss_of_prompts(logps_R):
    """A loss of differences between the responses to a prompt: rows 0 and 1, 1 and 2, 4 and 5, 6 and 7."""
    difference_M = logps_R[[0, 1, 4, 6]] - logps_R[[1, 2, 5, 7]]
    return nn.functional.softplus(0.1 * difference_M).sum()


def gradient(model, loss):
    parameters = list(model.parameters())
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, grads, strict=True)]
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_layout_equals_the_unpadded_row_by_row_computation(name, monkeypatch):
    """Log-probabilities, and the gradient of losses by row and by prompt, by autograd and by the fused backward."""
    model, rows, published = build(name), some_rows(), as_published(name)
    assert layout_of(model) == LAYOUTS[0], "each of these families can have everything"
    expected_R = naive_logps(published, rows)
    losses = (loss_of_rows, loss_of_prompts)
    expected = [gradient(published, loss_of(naive_logps(published, rows))) for loss_of in losses]
    # All prompts in one block; some prompts; one prompt in several turns.
    for block_logits in (2**25, 45 * VOCAB, 10 * VOCAB):
        monkeypatch.setattr(fused_head, "_BLOCK_LOGITS", block_logits)
        for layout in LAYOUTS if block_logits == 2**25 else LAYOUTS[:1]:
            with use_layout(model, layout):
                logps_R = response_logps(model, rows)
                assert logps_R.dtype == torch.float32
                torch.testing.assert_close(logps_R, expected_R, atol=1e-4, rtol=0)
                for loss_of, wanted in zip(losses, expected, strict=True):
                    loss = response_loss(model, rows, loss_of)
                    torch.testing.assert_close(loss, loss_of(expected_R), atol=1e-3, rtol=1e-5)
                    assert (gradient(model, loss) - wanted).norm() <= 1e-5 * wanted.norm()
                    by_autograd = gradient(model, loss_of(response_logps(model, rows)))
                    assert (by_autograd - wanted).norm() <= 1e-5 * wanted.norm()


def test_a_loss_sees_the_numbers_of_the_reference_pass_to_the_last_bit(monkeypatch):
    model, rows, seen = build("llama"), some_rows(), []
    monkeypatch.setattr(fused_head, "_BLOCK_LOGITS", 45 * VOCAB)

    def loss_of(logps_R):
        seen.append(logps_R.detach().clone())
        return logps_R.sum()

    response_loss(model, rows, loss_of)
    with torch.no_grad():
        assert torch.equal(seen[-1], response_logps(model, rows))
    assert len(seen) > 1


def test_frozen_parts_get_no_gradient():
    model, rows = build("llama"), some_rows()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.model.layers[1].requires_grad_(True)
    response_loss(model, rows, loss_of_rows).backward()
    found = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found == {name for name, _ in model.named_parameters() if name.startswith("model.layers.1.")}


def test_checkpointing_changes_nothing():
    model, rows = build("mistral").train(), some_rows()
    plain = gradient(model, response_loss(model, rows, loss_of_rows))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = response_loss(model, rows, loss_of_rows)
    # Only backward shows that the second pass is packed, too.
    assert torch.equal(torch.cat([g.flatten() for g in torch.autograd.grad(checkpointed, model.parameters())]), plain)


def test_a_lora_layer_on_the_head():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    model, rows = get_peft_model(llama(), config).eval(), some_rows()
    layout = layout_of(model)
    assert (layout.packed, layout.fused) == (True, False)
    assert "the head is a Linear of peft" in str(layout)
    adapters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    naive = naive_logps(model, rows)
    torch.testing.assert_close(response_logps(model, rows), naive, atol=1e-4, rtol=0)
    for found, wanted in zip(
        torch.autograd.grad(response_loss(model, rows, loss_of_rows), adapters),
        torch.autograd.grad(loss_of_rows(naive), adapters),
        strict=True,
    ):
        assert (found - wanted).norm() <= 1e-5 * wanted.norm()


def test_a_model_without_attention_is_padded():
    torch.manual_seed(0)
    shape = {name: SHAPE[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "initializer_range")}
    model, rows = MambaForCausalLM(MambaConfig(**shape, state_size=4)).eval(), some_rows()
    layout = layout_of(model)
    assert (layout.packed, layout.fused) == (False, True)
    assert str(layout).startswith("padded; log-probabilities without logits (not packed: ")
    torch.testing.assert_close(response_logps(model, rows), naive_logps(model, rows), atol=1e-4, rtol=0)


def test_a_model_that_does_more_after_its_head_keeps_its_own_logits():
    class Odd(LlamaForCausalLM):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.logits = output.logits * torch.linspace(0.5, 1.5, output.logits.shape[-1])
            return output

    torch.manual_seed(0)
    model, rows = Odd(LlamaConfig(**SHAPE)).eval(), some_rows()
    layout = layout_of(model)
    assert (layout.packed, layout.fused) == (True, False)
    assert "no fused head: a response's log-probability differs by" in str(layout)
    torch.testing.assert_close(response_logps(model, rows), naive_logps(model, rows), atol=1e-4, rtol=0)


def test_the_trial_leaves_a_model_as_it_was():
    model = build("llama").train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    state = torch.random.get_rng_state()
    layout_of(model)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_does_not_depend_on_the_other_rows():
    model, rows = build("llama"), some_rows()
    together = response_logps(model, rows)
    for row in range(len(rows)):
        alone = TokenRows(prompt_ids=rows.prompt_ids[row : row + 1], response_ids=rows.response_ids[row : row + 1])
        torch.testing.assert_close(response_logps(model, alone), together[row : row + 1], atol=1e-5, rtol=0)


def test_head_never_sees_prompts_or_padding():
    model, rows, seen = build("llama"), some_rows(), []
    with use_layout(model, PADDED):
        model.lm_head.register_forward_hook(lambda head, args, output: seen.append(args[0].shape))
        response_logps(model, rows)
    assert seen == [(1, sum(map(len, rows.response_ids)), 32)]
    rectangle = pad_rows(rows, torch.device("cpu")).input_ids_RT
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
    with use_layout(model, PADDED):
        whole = response_logps(model, rows)
        monkeypatch.setattr(forward, "_LOGIT_ROWS", 5)
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
