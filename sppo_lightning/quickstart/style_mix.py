"""The exact style mix of a policy: what share of its answers opens with which words, without sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.oracles.style_game import OPENERS
from sppo_lightning.types import Prompt


def style_prefix_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Returns the token ids of each opener of `OPENERS`, as they stand at the start of a response."""
    return [tokenizer.encode(opener, add_special_tokens=False) for opener in OPENERS]


@torch.no_grad()
def exact_style_mix(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> Tensor:
    """Computes each style's probability at temperature 1 as the probability of its opener's tokens.

    One batched forward pass, so no sampling error and no upward bias when a maximum is taken over styles. An opener
    that is spelt with other tokens than the tokenizer's own (a byte at a time, say) is counted as no opener; a trained
    policy gives such spellings practically no mass.

    Args:
        model: a causal language model in eval mode.
        tokenizer: its tokenizer, with a chat template.
        prompts: B prompts.

    Returns:
        float64 [B, num_styles], each row sums to 1; the last column is the probability of no opener.
    """
    openers = style_prefix_token_ids(tokenizer)
    questions = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    rows = [(question, opener) for question in questions for opener in openers]
    length = max(len(question) + len(opener) for question, opener in rows)
    pad_id = tokenizer.pad_token_id or 0
    # Padding on the right of causal attention changes nothing to its left, so that it needs no mask.
    input_ids = torch.tensor([[*q, *o, *[pad_id] * (length - len(q) - len(o))] for q, o in rows], device=model.device)
    logits = model(input_ids=input_ids).logits
    log_probs = [
        logits[row, len(q) - 1 : len(q) - 1 + len(o)].double().log_softmax(-1)[range(len(o)), o].sum()
        for row, (q, o) in enumerate(rows)
    ]
    opener_BS = torch.stack(log_probs).exp().cpu().view(len(prompts), len(openers))
    return torch.cat([opener_BS, 1 - opener_BS.sum(dim=1, keepdim=True)], dim=1)
