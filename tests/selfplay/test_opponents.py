import pytest

from sppo_lightning.errors import ConfigError
from sppo_lightning.selfplay.opponents import History, SelfPlay


def test_self_play_is_pi_t_alone():
    assert SelfPlay().weights(7) == {"previous": 1.0}


@pytest.mark.filterwarnings("ignore:opponent history")
def test_history_renormalises_what_exists():
    opponent = History(num_policies=3, mixture=[2.0, 1.0, 1.0])
    assert opponent.weights(0) == {"previous": 1.0}
    assert opponent.weights(1) == {"previous": pytest.approx(2 / 3), "history/1": pytest.approx(1 / 3)}
    assert opponent.weights(2) == opponent.weights(9) == {"previous": 0.5, "history/1": 0.25, "history/2": 0.25}


def test_history_leaves_out_policies_of_weight_0():
    assert History(num_policies=3, mixture=[1, 0, 1]).weights(5) == {"previous": 0.5, "history/2": 0.5}


@pytest.mark.filterwarnings("error")
def test_a_short_history_is_said_once_and_a_whole_one_not_at_all():
    opponent = History(num_policies=2)
    with pytest.warns(UserWarning, match="1 of 2 policies exist yet"):
        opponent.weights(0)
    opponent.weights(0)
    History(num_policies=2).weights(1)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ({"num_policies": 0}, "num_policies must be at least 1, got 0"),
        ({"num_policies": 2, "mixture": [1.0]}, "has 1 weights for num_policies=2"),
        ({"num_policies": 2, "mixture": [1.0, -0.5]}, "must be non-negative"),
        ({"num_policies": 2, "mixture": [0.0, 1.0]}, "first weight, pi_t's, positive"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(arguments, rule):
    with pytest.raises(ConfigError, match=rule):
        History(**arguments)
