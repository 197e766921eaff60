"""Picking a class is picking the method: the defaults are the published settings, each sourced in its docstring."""

import inspect

import pytest

from sppo_lightning import objectives

from .catalogue import all_objectives

ETA_MNPO = 1 / 0.0075
PUBLISHED = {
    "DNO": {"eta": 10.0},
    "DPO": {"beta": 0.1, "reference": "previous", "label_smoothing": 0.0},
    "EGPO": {"tau": 0.1, "eta": None, "per_token": False},
    "GPO": {"eta": 1000.0},
    "GRPO": {"tau": 0.04, "clip": 0.2, "scale_by_std": True, "per_token": True},
    "HTMNPO": {"eta": ETA_MNPO, "anchor_weight": 1 / 3, "player_weights": (1.0, 1.0), "per_token": False},
    "INPO": {"eta": ETA_MNPO, "tau": 0.0025},
    "IPO": {"tau": 0.1, "reference": "anchor", "per_token": False},
    "KTO": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0, "reference": "anchor"},
    "KTOPair": {"beta": 0.1, "reference": "anchor"},
    "MPO": {"eta": ETA_MNPO, "tau": 0.0025},
    "NashMD": {"tau": 0.1},
    "ONPO": {"eta": 1 / 8},
    "OnlineIPO": {"tau": 0.1, "target": "win_rates", "per_token": False},
    "RLOO": {"tau": 0.05},
    "SPIN": {"beta": 0.1},
    "SPO": {"baseline": "half"},
    "SPPO": {"eta": 1000.0, "log_z": "half_eta", "num_draws": None},
    "SPPOHard": {"eta": 10.0},
    "SPPOSingle": {"eta": 1000.0},
    "SimPO": {"beta": 2.0, "gamma": 1.0},
    "TDMNPO": {"eta": ETA_MNPO, "anchor_weight": 1 / 3, "history_weights": (1.0, 1.0), "per_token": False},
}


def test_every_objective_is_listed():
    assert PUBLISHED.keys() == {cls.__name__ for cls in all_objectives()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults(name):
    parameters = inspect.signature(getattr(objectives, name)).parameters.values()
    assert {parameter.name: parameter.default for parameter in parameters} == PUBLISHED[name]
