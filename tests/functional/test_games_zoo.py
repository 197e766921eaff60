"""The named games, and measured games from files."""

import numpy as np
import pytest

from sppo_lightning.errors import ConfigError, DataError
from sppo_lightning.functional import game_zoo
from sppo_lightning.functional.game_diagnostics import condorcet_winner, curl_share


def test_rps_has_the_stated_order():
    probs = game_zoo.rps(0.9, 0.7, 0.8)
    assert [probs[0, 1], probs[1, 2], probs[2, 0]] == pytest.approx([0.9, 0.7, 0.8])


@pytest.mark.parametrize("family", ["random", "bradley_terry", "condorcet"])
def test_families_are_games_and_functions_of_their_seed(family):
    make = getattr(game_zoo, family)
    probs = make(20, 1)
    assert probs.shape == (20, 20)
    assert (probs + probs.T == 1).all()
    np.testing.assert_array_equal(probs, make(20, 1))
    assert np.abs(probs - make(20, 2)).max() > 0.1


def test_condorcet_game_has_its_winner_with_the_margin():
    probs = game_zoo.condorcet(20, seed=0, margin=0.05)
    assert condorcet_winner(probs) == 0
    assert probs[0, 1:].min() == pytest.approx(0.55)


def test_bradley_terry_game_is_transitive():
    assert curl_share(game_zoo.bradley_terry(20, seed=0), clip=1e-9) < 1e-12


def test_impossible_games_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        game_zoo.random(0)
    with pytest.raises(DataError, match=r"rps: P\[0, 1\] = 1.5"):
        game_zoo.rps(a=1.5)


def test_a_file_of_one_or_many_games_is_read(tmp_path):
    one = game_zoo.rps()
    np.savez(tmp_path / "one.npz", P=one, votes=np.ones(3))
    np.savez_compressed(tmp_path / "many.npz", P=np.stack([one, one.T]).astype(np.float32))
    np.testing.assert_array_equal(game_zoo.from_file(str(tmp_path / "one.npz")), one)
    many = game_zoo.from_file(str(tmp_path / "many.npz"))
    assert many.shape == (2, 3, 3)
    np.testing.assert_allclose(many[1], one.T, atol=1e-7)


def write_bad(folder, kind):
    path = folder / f"{kind}.npz"
    match kind:
        case "no P":
            np.savez(path, Q=np.eye(2))
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("P = 0.5\n")
        case "truncated":
            np.savez(path, P=game_zoo.random(30))
            path.write_bytes(path.read_bytes()[:2000])
        case "pickle":
            np.savez(path, P=np.array([[None]], dtype=object))
        case "bare array":
            with path.open("wb") as file:
                np.save(file, game_zoo.rps())
        case "four axes":
            np.savez(path, P=np.full((1, 1, 2, 2), 0.5))
        case "strings":
            np.savez(path, P=np.array([["a"]]))
        case "not a game":
            np.savez(path, P=np.ones((2, 2)))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "there is no such file"),
        ("no P", "has no array P, only Q"),
        ("empty", "cannot be read as an .npz file"),
        ("text", "cannot be read as an .npz file"),
        ("truncated", "cannot be read as an .npz file"),
        ("pickle", "cannot be read as an .npz file"),
        ("bare array", "only one array without a name"),
        ("four axes", r"must be \[N, N\] or \[B, N, N\]"),
        ("strings", "rectangular array of numbers"),
        ("not a game", "must add up to 1"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, kind, message):
    path = write_bad(tmp_path, kind)
    with pytest.raises(DataError, match=message) as caught:
        game_zoo.from_file(str(path))
    assert str(path) in str(caught.value)
