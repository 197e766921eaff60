"""Fifty steps are the same however the rows are laid out: packs, padding, shared prompts, checkpointing, heads.

AdamW at 1e-5, eta 1e3; every loss within 1e-5 of the first one's size.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sppo_lightning.functional import fused_head
from sppo_lightning.functional.forward import PADDED, Layout
from sppo_lightning.functional.layout import layout_of, use_layout
from sppo_lightning.functional.logps import response_logps, response_loss
from sppo_lightning.functional.rows import TokenRows
from sppo_lightning.objectives import SPPO
from sppo_lightning.selfplay.dataset import Pack, RoundDataset
from sppo_lightning.training.reference import frozen_logps

STEPS, VOCAB = 50, 12


def policy():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, **shape, initializer_range=0.3)).train()


def alone(pack):
    """The same rows in an order in which no prompt stands beside itself, so that none is shared."""
    R = len(pack.rows)
    order = sorted(
        range(R), key=lambda row: (sum(pack.rows.prompt_ids[k] == pack.rows.prompt_ids[row] for k in range(row)), row)
    )
    targets = pack.targets
    moved = {name: getattr(targets, name)[order] for name in ("num_tokens_R", "win_rate_R", "prompt_R", "weight_R")} | {
        "frozen_logps": {name: logps[order] for name, logps in targets.frozen_logps.items()}
    }
    return Pack(rows=pack.rows.at(order), targets=replace(targets, **moved))


def losses(groups, *, max_pack_tokens=10_000, layout=None, shared=True, checkpointing=False, cached=True):
    """The loss of each of fifty steps on one global batch of 8 prompts."""
    model, objective = policy(), SPPO(eta=1e3)
    start = policy().eval()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    handle = SimpleNamespace(model=start)
    with_reference = []
    for group in groups:
        rows = TokenRows(prompt_ids=[group.prompt_ids] * len(group.response_ids), response_ids=group.response_ids)
        with_reference.append(replace(group, frozen_logps={"previous": frozen_logps(handle, rows, 50).tolist()}))
    packed = layout is None or layout.packed
    batch = RoundDataset(with_reference, seed=0, round_index=0).batch(
        range(8), rank=0, world_size=1, max_pack_tokens=max_pack_tokens, packed=packed
    )
    packs = batch.packs if shared else [alone(pack) for pack in batch.packs]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    weight = sum(float(pack.targets.weight_R.sum()) for pack in packs)
    found = []
    with use_layout(model, layout or layout_of(model)):
        for _ in range(STEPS):
            optimizer.zero_grad()
            total = 0.0
            for pack in packs:
                fixed = pack.inputs(torch.empty(0))
                if not cached:
                    with torch.no_grad():
                        fixed = replace(fixed, frozen_logps={"previous": response_logps(start, pack.rows)})

                def loss_of(logps_R, fixed=fixed):
                    outputs = objective(replace(fixed, policy_logps_R=logps_R))
                    return (outputs.loss * outputs.weight).sum() / weight

                loss = response_loss(model, pack.rows, loss_of)
                loss.backward()
                total += float(loss.detach())
            optimizer.step()
            found.append(total)
    return len(packs), torch.tensor(found)


@pytest.fixture(scope="module")
def expected():
    from tests.training.conftest import random_groups

    eight = random_groups(8, masked=False)
    num_packs, plain = losses(eight, layout=PADDED)
    assert num_packs == 1
    assert abs(float(plain[-1] - plain[0])) > 1e-3 * float(plain[0]), "training must move the loss"
    return eight, plain


@pytest.mark.parametrize(
    ("num_packs", "ways"),
    [
        (1, {}),
        (2, {"max_pack_tokens": 110}),
        (8, {"max_pack_tokens": 1}),
        (1, {"layout": Layout(packed=True, fused=False)}),
        (1, {"layout": Layout(packed=False, fused=True)}),
        (1, {"shared": False}),
        (1, {"checkpointing": True}),
        (1, {"cached": False}),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else str(value),
)
def test_fifty_steps_are_the_same(expected, num_packs, ways):
    eight, plain = expected
    found_packs, found = losses(eight, **ways)
    assert found_packs == num_packs
    assert float((found - plain).abs().max()) <= 1e-5 * float(plain[0])


def test_small_blocks_of_logits_change_nothing(expected, monkeypatch):
    eight, plain = expected
    monkeypatch.setattr(fused_head, "_BLOCK_LOGITS", 20 * VOCAB)
    assert float((losses(eight)[1] - plain).abs().max()) <= 1e-5 * float(plain[0])
