import pytest
import torch

from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.oracles.style_game import NUM_STYLES, OPENERS, StyleGame
from sppo_lightning.quickstart.style_mix import exact_style_mix, style_prefix_token_ids


def test_openers_are_tokenised_as_in_a_response(tokenizer):
    for opener, ids in zip(OPENERS, style_prefix_token_ids(tokenizer), strict=True):
        assert tokenizer.encode(f"{opener} the kettle.", add_special_tokens=False)[: len(ids)] == ids


def test_each_row_is_a_distribution(model, tokenizer, prompts):
    mix_BS = exact_style_mix(model, tokenizer, prompts)
    assert mix_BS.shape == (192, NUM_STYLES)
    assert float(mix_BS.min()) >= 0
    torch.testing.assert_close(mix_BS.sum(dim=1), torch.ones(192, dtype=torch.float64))


def test_the_batch_changes_nothing(model, tokenizer, prompts):
    together = exact_style_mix(model, tokenizer, prompts[:9])
    for b in (0, 8):
        torch.testing.assert_close(
            exact_style_mix(model, tokenizer, prompts[b : b + 1])[0], together[b], atol=1e-5, rtol=0
        )


def test_it_is_the_product_of_next_token_probabilities(model, tokenizer, prompts):
    prompt = prompts[3]
    ids = encode_prompt(tokenizer, prompt)
    probability = 1.0
    for token in style_prefix_token_ids(tokenizer)[1]:
        with torch.no_grad():
            probability *= float(model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)[token])
        ids.append(token)
    assert float(exact_style_mix(model, tokenizer, [prompt])[0, 1]) == pytest.approx(probability, abs=1e-5)


def test_it_agrees_with_sampling(model, tokenizer, prompts):
    prompt, num_samples = prompts[0], 2000
    torch.manual_seed(0)
    ids = torch.tensor([encode_prompt(tokenizer, prompt)])
    output = model.generate(ids, do_sample=True, top_k=0, max_new_tokens=2, num_return_sequences=num_samples)
    texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    counts_S = torch.bincount(torch.tensor([StyleGame.style(text) for text in texts]), minlength=NUM_STYLES)
    exact_S = exact_style_mix(model, tokenizer, [prompt])[0]
    standard_error_S = (exact_S * (1 - exact_S) / num_samples).sqrt()
    assert bool(((counts_S / num_samples - exact_S).abs() < 4 * standard_error_S + 1 / num_samples).all())
