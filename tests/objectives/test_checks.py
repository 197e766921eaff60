"""Constructor arguments: what is refused, with the key and the value in the message."""

import math

import pytest

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import (
    DNO,
    DPO,
    EGPO,
    GPO,
    HTMNPO,
    INPO,
    IPO,
    KTO,
    MPO,
    ONPO,
    SPIN,
    SPO,
    SPPO,
    TDMNPO,
    KTOPair,
    NashMD,
    OnlineIPO,
    SimPO,
    SPPOHard,
    SPPOSingle,
)

REFUSED = [
    (SPPO, {"eta": 0.0}),
    (SPPO, {"eta": -1.0}),
    (SPPO, {"eta": math.nan}),
    (SPPO, {"eta": math.inf}),
    (SPPO, {"log_z": "samples"}),
    (SPPOSingle, {"eta": 0.0}),
    (SPPOHard, {"eta": 0.0}),
    (GPO, {"eta": 0.0}),
    (DNO, {"eta": 0.0}),
    (ONPO, {"eta": 0.0}),
    (DPO, {"beta": 0.0}),
    (DPO, {"reference": "initial"}),
    (DPO, {"label_smoothing": 0.5}),
    (DPO, {"label_smoothing": -0.1}),
    (SPIN, {"beta": -1.0}),
    (IPO, {"tau": 0.0}),
    (IPO, {"reference": "initial"}),
    (INPO, {"eta": 0.0}),
    (INPO, {"tau": -0.1}),
    (INPO, {"tau": 0.01}),  # eta * tau above 1
    (MPO, {"eta": 0.0}),
    (MPO, {"tau": -0.1}),
    (TDMNPO, {"eta": 0.0}),
    (TDMNPO, {"anchor_weight": 1.0}),
    (TDMNPO, {"anchor_weight": -0.1}),
    (TDMNPO, {"history_weights": []}),
    (TDMNPO, {"history_weights": [1.0, -1.0]}),
    (TDMNPO, {"history_weights": [0.0, 0.0]}),
    (TDMNPO, {"history_weights": [0.0, 1.0]}),
    (TDMNPO, {"history_weights": [1.0, math.nan]}),
    (HTMNPO, {"eta": 0.0}),
    (HTMNPO, {"anchor_weight": 1.0}),
    (HTMNPO, {"player_weights": []}),
    (OnlineIPO, {"tau": 0.0}),
    (OnlineIPO, {"target": "v1"}),
    (EGPO, {"tau": 0.0}),
    (EGPO, {"eta": 0.0}),
    (NashMD, {"tau": 0.0}),
    (SPO, {"baseline": "mean"}),
    (SimPO, {"beta": 0.0}),
    (SimPO, {"gamma": -0.1}),
    (KTO, {"beta": 0.0}),
    (KTO, {"desirable_weight": -1.0}),
    (KTO, {"undesirable_weight": math.inf}),
    (KTO, {"reference": "initial"}),
    (KTOPair, {"beta": 0.0}),
    (KTOPair, {"reference": "initial"}),
]


@pytest.mark.parametrize(("cls", "arguments"), REFUSED)
def test_refused(cls, arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ConfigError) as caught:
        cls(**arguments)
    message = str(caught.value)
    assert message.startswith(f"model.objective.{name}: ")
    shown = f"{value:g}" if isinstance(value, float) else repr(value)
    assert shown in message or repr(value) in message


def test_limits_are_allowed():
    INPO(eta=3.0, tau=0.0)
    DPO(label_smoothing=0.0)
    DPO(label_smoothing=0.49)
    TDMNPO(anchor_weight=0.0)
    TDMNPO(anchor_weight=0.99)
    SimPO(gamma=0.0)
    KTO(undesirable_weight=0.0)


@pytest.mark.parametrize("eta", [1 / 0.013, 1 / 0.013 * (1 + 1e-12)])  # times 0.013 just below and just above 1
def test_inpo_forgives_the_rounding_of_an_inverse(eta):
    assert INPO(eta=eta, tau=0.013).needs == ("anchor",)


def test_policies_of_weight_zero_are_not_needed():
    assert INPO(eta=3.0, tau=0.0).needs == ("previous",)
    assert TDMNPO(anchor_weight=0.0, history_weights=[1.0, 0.0, 1.0]).needs == ("previous", "history/2")
    assert HTMNPO(anchor_weight=0.0, player_weights=[0.0, 1.0]).needs == ("player/2",)


def test_egpos_step_is_no_longer_than_the_way_to_the_anchor():
    assert EGPO(tau=0.1, eta=10.0).needs == ("anchor",)
    with pytest.raises(ConfigError, match=r"model.objective.tau: eta \* tau .* got 20 \* 0.1 = 2"):
        EGPO(tau=0.1, eta=20.0)
