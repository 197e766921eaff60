"""What every schedule promises, checked on every concrete subclass the package holds."""

import importlib
import inspect
import pkgutil

import pytest

import sppo_lightning.training
from sppo_lightning.training.schedules import PlayThenTrain, Position, Schedule


def schedules():
    for module in pkgutil.walk_packages(sppo_lightning.training.__path__, "sppo_lightning.training."):
        importlib.import_module(module.name)
    found, waiting = set(), [Schedule]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        waiting += subclasses
        # jsonargparse makes a subclass of its own for a default of the command line.
        ours = {cls for cls in subclasses if not cls.__name__.startswith("LazyInstance_")}
        found |= {cls for cls in ours if cls.__module__.startswith("sppo_lightning.training")}
    return sorted((cls for cls in found if not inspect.isabstract(cls)), key=lambda cls: cls.__name__)


def test_the_socket_has_a_member():
    assert PlayThenTrain in schedules()


@pytest.mark.parametrize("cls", schedules(), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("epochs_per_round", [1, 2, 5])
def test_rounds_are_blocks_of_epochs(cls, epochs_per_round):
    schedule = cls()
    block = schedule.epochs_in_round(epochs_per_round)
    assert block >= epochs_per_round
    positions = [schedule.position(epoch, epochs_per_round) for epoch in range(4 * block)]
    for round_index in range(4):
        of_round = [position for position in positions if position.round == round_index]
        assert positions[round_index * block : (round_index + 1) * block] == of_round
        assert [position.epoch for position in of_round] == list(range(block))
        assert [position.first_epoch for position in of_round] == [True] + [False] * (block - 1)
        assert [position.last_epoch for position in of_round] == [False] * (block - 1) + [True]


def test_play_then_train():
    assert PlayThenTrain().position(7, 3) == Position(round=2, epoch=1, last_epoch=False)
