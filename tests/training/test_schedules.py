"""What every schedule promises, checked on every concrete subclass the package holds."""

import importlib
import inspect
import pkgutil

import pytest

import sppo_lightning.training
from sppo_lightning.errors import ConfigError
from sppo_lightning.oracles import StyleGame
from sppo_lightning.training.schedule import MAIN, Position, Schedule
from sppo_lightning.training.schedules import Players, PlayThenTrain


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


def make(cls):
    return cls([StyleGame()] * 2) if cls is Players else cls()


EVERY_SCHEDULE = pytest.mark.parametrize(
    "schedule", [make(cls) for cls in schedules()], ids=lambda one: type(one).__name__
)


@EVERY_SCHEDULE
@pytest.mark.parametrize("epochs_per_round", [1, 2, 5])
def test_rounds_are_blocks_of_phases_and_phases_blocks_of_epochs(schedule, epochs_per_round):
    phases = len(schedule.phases)
    block = schedule.epochs_in_round(epochs_per_round)
    assert block == phases * epochs_per_round
    places = [schedule.position(epoch, epochs_per_round) for epoch in range(3 * block)]
    assert [(place.round, place.phase, place.epoch) for place in places] == [
        (t, phase, epoch) for t in range(3) for phase in range(phases) for epoch in range(epochs_per_round)
    ]
    for place in places:
        assert place.first_epoch == (place.epoch == 0)
        assert place.phase_ends == (place.epoch == epochs_per_round - 1)
        assert place.last_epoch == (place.phase_ends and place.phase == phases - 1)


@EVERY_SCHEDULE
def test_a_round_begins_with_playing_and_ends_with_the_main_policy(schedule):
    first = schedule.phases[0]
    assert not first.shares, "there is nothing to take over yet"
    assert schedule.phases[-1].trains == MAIN
    assert not schedule.phases[-1].keeps, "the main policy is the export itself"
    trained = [phase.trains for phase in schedule.phases]
    assert len(set(trained)) == len(trained)


def test_play_then_train():
    assert PlayThenTrain().position(7, 3) == Position(round=2, epoch=1, last_epoch=False, phase_ends=False)
    assert [PlayThenTrain(refresh_anchor_every=3).anchor_round(t) for t in range(7)] == [0, 0, 0, 3, 3, 3, 6]
    with pytest.raises(ConfigError, match="refresh_anchor_every must be at least 1"):
        PlayThenTrain(refresh_anchor_every=0)


def test_the_players_after_each_player():
    schedule = Players([StyleGame()] * 2)
    names = [phase.trains for phase in schedule.phases]
    assert names == ["player_1", "player_2", "main"]
    others = [[schedule.version(f"player/{i}", phase, 4)[0] for i in (1, 2)] for phase in range(3)]
    assert others == [["player_2", "main"], ["main", "player_1"], ["player_1", "player_2"]]
    assert schedule.version("player/3", 0, 4) is None
    assert schedule.version("history/1", 0, 4) == ("player_1", 3)
