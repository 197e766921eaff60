from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sppo_lightning.training import offload
from sppo_lightning.training.offload import TrainingMemory


def training():
    """A module after one step of Adam."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    step(module, optimizer)
    return module, optimizer


def step(module, optimizer):
    optimizer.zero_grad()
    module(torch.eye(4)).square().sum().backward()
    optimizer.step()


def tensors(module, optimizer):
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [*module.parameters(), *module.buffers(), *states]


def memory(module, optimizer):
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    return TrainingMemory(SimpleNamespace(lightning_module=module, optimizers=[optimizer], strategy=strategy))


@pytest.fixture
def moves(monkeypatch):
    """The CPU stands for a GPU here, and another device for main memory; what is copied, and where to."""
    moves = []

    def copied(tensor, device):
        moves.append((tensor.data_ptr(), device.type))
        return tensor.clone()

    monkeypatch.setattr(offload, "_HOST", torch.device("meta"))
    monkeypatch.setattr(offload, "copied", copied)
    return moves


def test_weights_buffers_and_optimiser_states_go_and_come_back_in_place(moves):
    module, optimizer = training()
    there = tensors(module, optimizer)
    lender = memory(module, optimizer)
    for destination, call in (("meta", lender.lend), ("cpu", lender.take_back)):
        moves.clear()
        addresses = {tensor.data_ptr() for tensor in there}
        call()
        call()
        assert sorted(moves) == sorted((address, destination) for address in addresses)
        assert all(parameter.grad is None for parameter in module.parameters())
    assert all(one is other for one, other in zip(there, tensors(module, optimizer), strict=True))


def test_training_goes_on_as_if_nothing_had_been(moves):
    module, optimizer = training()
    lender = memory(module, optimizer)
    lender.lend()
    lender.take_back()
    step(module, optimizer)
    other, its_optimizer = training()
    step(other, its_optimizer)
    assert all(torch.equal(*both) for both in zip(module.parameters(), other.parameters(), strict=True))


def test_without_a_gpu_nothing_moves():
    module, optimizer = training()
    before = module[0].weight.data_ptr()
    lender = memory(module, optimizer)
    lender.lend()
    assert module[0].weight.data_ptr() == before
    assert module[0].weight.grad is not None
    lender.take_back()
