"""Win rates against the queue, and answers that are no preferences."""

import numpy as np
import pytest

from sppo_lightning.control.labeller import compare_with_queue, win_rates
from sppo_lightning.control.preferences import MaximumReward, UserFunction
from sppo_lightning.control.rewards import QueueWinRate
from sppo_lightning.control.rounds import Round
from sppo_lightning.errors import ConfigError, OracleError


def ranked(trajectories, with_rewards):
    """The same episodes with returns 0, 1, 2, ..."""
    return [with_rewards([each], lambda _, n=n: np.eye(1, 40)[0] * n)[0] for n, each in enumerate(trajectories)]


def test_every_new_trajectory_meets_the_queue_once(pole_episodes, with_rewards):
    episodes = ranked(pole_episodes, with_rewards)
    earlier, new = [episodes[0], episodes[3]], [episodes[1], episodes[4], episodes[2]]
    comparisons = compare_with_queue(new, earlier, 10, MaximumReward())
    assert list(zip(comparisons.first_C, comparisons.second_C, strict=True)) == [
        *((10, 8), (10, 9), (11, 8), (11, 9), (11, 10), (12, 8), (12, 9), (12, 10), (12, 11))
    ]
    played = Round(index=5, trajectories=new[:2], comparisons=compare_with_queue(new[:2], earlier, 10, MaximumReward()))
    # Returns 1 and 4 against 0 and 3 and each other.
    np.testing.assert_allclose(win_rates(played), [1 / 3, 1])
    np.testing.assert_allclose(QueueWinRate().rewards(played).sum(axis=1), [-1 / 3, 1])
    assert (np.ptp(QueueWinRate().rewards(played), axis=1) == 0).all()


def function(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(f"def prefer(first, second):\n    {body}\n")
    return UserFunction(f"{path}:prefer")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return float('nan')", r"mine\.py:prefer must return a probability in \[0, 1\], got nan between round_000/0"),
        ("return 1.5", r"in \[0, 1\], got 1\.5 between"),
        ("return first.score", "failed between round_000/0 and round_000/1: AttributeError"),
        ("return 0.7", r"gives P\(a, b\) = 0\.7 and P\(b, a\) = 0\.7"),
    ],
)
def test_an_answer_that_is_no_preference_is_refused(body, message, tmp_path, pole_episodes):
    with pytest.raises(OracleError, match=message):
        compare_with_queue(pole_episodes[:3], [], 0, function(tmp_path, body))


def test_a_users_function_is_found_and_asked(tmp_path, pole_episodes):
    prefer = function(tmp_path, "return 0.5 + 0.5 * ((first.length > second.length) - (first.length < second.length))")
    longest = max(pole_episodes, key=lambda each: each.length)
    shortest = min(pole_episodes, key=lambda each: each.length)
    assert prefer(longest, shortest) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}/none.py:prefer", "there is no file"),
        ("{}/mine.py", "write FILE.py:NAME"),
        ("{}/mine.py:other", "has no function other; it has prefer"),
        ("{}/broken.py:prefer", "cannot be run: ZeroDivisionError"),
    ],
)
def test_a_function_that_cannot_be_found(text, message, tmp_path):
    function(tmp_path, "return 1")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=message):
        UserFunction(text.format(tmp_path))
