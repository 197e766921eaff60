"""Verdicts from tables and matrices: what is read, what is counted, and what is refused, by file and record."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sppo_lightning.errors import DataError
from sppo_lightning.io.votes_npz import read_votes_npz
from sppo_lightning.io.votes_table import read_votes_table

ROW = {"prompt_id": "q1", "first": "b", "second": "a", "votes_first": 2, "votes_second": 1}


def table(folder, *rows):
    path = folder / "votes.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return read_votes_table(path)


def matrices(folder, **arrays):
    np.savez(folder / "votes.npz", **arrays)
    return read_votes_npz(folder / "votes.npz")


def games(num_prompts=2, K=3):
    """Votes of a judge who always prefers the earlier response, three votes a pair."""
    return np.repeat(np.triu(np.full((K, K), 3), 1)[None], num_prompts, axis=0)


def test_every_way_to_write_a_verdict(tmp_path):
    base = {"prompt_id": 7, "first": "b", "second": "a"}
    votes = table(
        tmp_path,
        base | {"winner": "first"},
        base | {"winner": "a"},
        base | {"winner": "tie", "prob_first": 0.4},
        base | {"votes_first": 2, "votes_second": 1, "votes_tie": 1},
        base | {"prob_first": 0.75},
        {"prompt_id": 8, "first": "a", "second": "b", "votes_first": 0, "votes_second": 5, "label": "b"},
    )
    assert votes.prompt_ids == ("7", "8")
    assert votes.responses == (("b", "a"), ("a", "b"))
    assert votes.share_first.tolist() == [1, 0, 0.5, 0.625, 0.75, 0]
    np.testing.assert_array_equal(votes.num_votes, [1, 1, 1, 4, np.nan, 5])
    np.testing.assert_array_equal(votes.prob_first_M, [np.nan, np.nan, 0.4, np.nan, 0.75, np.nan])
    np.testing.assert_array_equal(votes.label_M, [np.nan] * 5 + [0])
    assert votes.order_known
    assert votes.remarks == ()


def test_lengths_are_given_or_counted(tmp_path):
    given = table(tmp_path, ROW | {"first_length": 40, "second_length": 55.5})
    assert given.lengths == ((40.0, 55.5),)
    counted = table(tmp_path, ROW | {"first_text": "four", "second_text": ""})
    assert (counted.lengths, counted.length_unit) == (((4.0, 0.0),), "characters")
    assert np.isnan(table(tmp_path, ROW).lengths).all()


def test_what_is_not_used_is_counted(tmp_path):
    empty = {"prompt_id": "q1", "first": "b", "second": "a", "winner": None}
    votes = table(tmp_path, ROW | {"annotator": "x"}, empty, empty)
    assert len(votes.prompt_M) == 1
    assert votes.remarks == ("left out: 2 records without a verdict", "columns not used: annotator")


def test_parquet_and_csv_are_read_alike(tmp_path):
    rows = [ROW, ROW | {"first": "a", "second": "c", "label": "c"}, ROW | {"first": "c"}]
    expected = table(tmp_path, *rows)
    columns = {name: [row.get(name) for row in rows] for name in rows[1]}
    pq.write_table(pa.table(columns), tmp_path / "votes.parquet")
    lines = [
        ",".join("" if value is None else str(value) for value in line) for line in zip(*columns.values(), strict=True)
    ]
    (tmp_path / "votes.csv").write_text("\n".join([",".join(columns), *lines]))
    for name in ("votes.parquet", "votes.csv"):
        found = read_votes_table(tmp_path / name)
        assert found.responses == expected.responses
        np.testing.assert_array_equal(found.share_first, expected.share_first)
        np.testing.assert_array_equal(found.label_M, expected.label_M)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_id": None}, r"line 2: has no 'prompt_id'"),
        ({"second": 1.5}, r"line 2, field 'second': an id must be a string or a whole number, not float 1.5"),
        ({"second": "b"}, r"line 2: compares 'b' with itself"),
        ({"votes_first": -1}, r"line 2, field 'votes_first': must be a number at least 0, not int -1"),
        ({"votes_first": 1.5}, r"line 2, field 'votes_first': votes are counted in whole numbers, got 1.5"),
        ({"votes_first": float("nan")}, r"line 2, field 'votes_first': must be a number"),
        ({"votes_first": "many"}, r"line 2, field 'votes_first': must be a number at least 0, not str 'many'"),
        ({"votes_first": 0, "votes_second": 0}, r"line 2: nobody voted"),
        ({"votes_second": None}, r"line 2: has 'votes_first' but no 'votes_second'"),
        ({"winner": "b"}, r"line 2: has both 'winner' and 'votes_first'"),
        ({"votes_first": None, "votes_second": None, "winner": "c"}, r"line 2, field 'winner': must be 'first'"),
        ({"votes_first": None, "votes_second": None, "winnner": "b"}, r"line 2: .*did you mean 'winner'"),
        ({"first": "second", "label": "second"}, r"line 2, field 'label': 'second' may be a place or a response's id"),
        ({"prob_first": 1.2}, r"line 2, field 'prob_first': must be a number from 0 to 1, not float 1.2"),
        ({"label": 3}, r"line 2, field 'label': must be 'first'"),
        ({"first_length": 3}, r"line 2: has 'first_length' but no 'second_length'"),
        ({"first_length": -3, "second_length": 1}, r"line 2, field 'first_length': must be a number at least 0"),
        ({"first_length": 11, "second_length": 20}, r"line 2: response 'b' of prompt 'q1' has length 11 here and 10"),
        ({"first_text": ["a"]}, r"line 2, field 'first_text': must be a string, not list"),
    ],
)
def test_a_bad_record_is_refused_by_file_and_line(tmp_path, changes, message):
    good = ROW | {"first_length": 10, "second_length": 20}
    with pytest.raises(DataError, match=message) as caught:
        table(tmp_path, good, ROW | changes)
    assert str(caught.value).startswith(str(tmp_path / "votes.jsonl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no verdict"),
        ("[1]", r"line 1: a record must be an object"),
        ('{"prompt_id": 1, ', r"line 1: is not JSON"),
        ('{"prompt": 1, "first": "a", "second": "b", "winner": "a"}', r"line 1: has no 'prompt_id'; rename 'prompt'"),
        ('{"prompt_id": 1, "first": "a", "second": "b"}', "holds no verdict; left out: 1 record without a verdict"),
    ],
)
def test_a_file_that_is_no_table_of_votes(tmp_path, content, message):
    (tmp_path / "votes.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        read_votes_table(tmp_path / "votes.jsonl")


def test_wins_and_shares_say_the_same(tmp_path):
    wins = games().astype(float)
    wins[0, 0, 1], wins[0, 1, 0] = 1.5, 1.5  # of three votes one tied, or three
    wins[1, 0, 2] = 0  # nobody compared these
    votes = wins + wins.swapaxes(1, 2)
    shares = np.divide(wins, votes, out=np.full_like(wins, 0.5), where=votes > 0)
    from_wins = matrices(tmp_path, wins=wins, models=["x", "y", "z"], prompt_ids=["p", "q"], lengths=np.ones((2, 3)))
    from_shares = matrices(tmp_path, P=shares.astype(np.float32), votes=votes)
    assert from_wins.prompt_ids == ("p", "q")
    assert from_wins.responses[0] == ("x", "y", "z")
    assert from_wins.lengths[1] == (1.0, 1.0, 1.0)
    assert from_wins.remarks == ("left out: 1 record without votes (pairs that nobody compared)",)
    for found in (from_wins, from_shares):
        assert found.for_first_M.tolist() == [1, 3, 3, 3, 3]
        assert found.for_second_M.tolist() == [1, 0, 0, 0, 0]
        assert found.ties_M.tolist() == [1, 0, 0, 0, 0]
        assert not found.order_known


def test_ties_may_stand_beside_wins_and_shares_without_votes_are_probabilities(tmp_path):
    ties = np.zeros((2, 3, 3))
    ties[0, 0, 1] = ties[0, 1, 0] = 2
    found = matrices(tmp_path, wins_BKK=games(), ties=ties, more=np.zeros(1))
    assert found.ties_M.tolist() == [2, 0, 0, 0, 0, 0]
    assert found.share_first[0] == pytest.approx(4 / 5)
    assert found.remarks == ("arrays not used: more",)
    probs = matrices(tmp_path, P=np.array([[0.5, 0.7], [0.3, 0.5]]))
    assert (probs.prob_first_M.tolist(), np.isnan(probs.num_votes).all()) == ([0.7], True)


def changed(value, *places):
    array = games().astype(float)
    for place in places:
        array[place] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"matrix": games()}, "has neither 'wins' nor 'P', only matrix"),
        ({"wins": games(), "votes": games()}, "has 'wins' and 'votes'; give wins, or P with votes"),
        ({"wins": np.zeros((2, 3, 4))}, r"wins must be \[prompts, K, K\] .*got shape \[2, 3, 4\]"),
        ({"wins": np.full((2, 3, 3), "x")}, "wins must hold numbers, not <U1"),
        ({"wins": np.array([{}])}, "cannot be read as an .npz file of plain numbers"),
        ({"wins": changed(-1, (1, 0, 2))}, r"prompt '1', pair \(0, 2\): votes must be whole numbers of at least 0"),
        ({"wins": changed(np.nan, (1, 0, 2))}, r"prompt '1', pair \(0, 2\): votes must be whole numbers"),
        ({"wins": changed(1, (1, 2, 2))}, "prompt '1': has votes for response 2 against itself"),
        ({"wins": changed(1.5, (0, 1, 2))}, r"prompt '0', pair \(1, 2\): votes must be .*halves on both sides"),
        ({"wins": np.zeros((2, 3, 3))}, "holds no verdict; left out: 6 records without votes"),
        (
            {"wins": games(), "ties": changed(1, (0, 0, 1))},
            r"pair \(0, 1\): ties must be equal whole numbers both ways",
        ),
        ({"wins": games(), "ties": games(3)}, r"ties has shape \[3, 3, 3\], the matrices beside it \[2, 3, 3\]"),
        ({"P": games() / 3, "ties": games()}, "'ties' goes with 'wins'"),
        ({"P": games() / 2}, r"prompt '0', pair \(0, 1\): P must lie in \[0, 1\]"),
        ({"P": np.full((1, 2, 2), 0.4), "votes": np.full((1, 2, 2), 5)}, r"P\[i, j\] \+ P\[j, i\] must be 1"),
        (
            {"P": np.array([[0.5, 0.4], [0.6, 0.5]]), "votes": np.full((2, 2), 3)},
            r"P = 0.4 of 3 votes is no whole number of votes or ties",
        ),
        ({"wins": games(), "models": ["a", "b"]}, r"models must be \[3\] or \[2, 3\] names, got shape \[2\]"),
        ({"wins": games(), "models": ["a", "b", "a"]}, "two responses of prompt '0' have one name"),
        ({"wins": games(), "prompt_ids": ["a", "a"]}, "prompt_ids holds an id twice"),
        ({"wins": games(), "lengths": -np.ones((2, 3))}, r"lengths must be \[2, 3\] numbers of at least 0"),
    ],
)
def test_bad_matrices_are_refused_by_array_and_pair(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        matrices(tmp_path, **arrays)
    assert str(caught.value).startswith(str(tmp_path / "votes.npz"))


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "votes.npz").write_text("votes")
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file"):
        read_votes_npz(tmp_path / "votes.npz")
    np.save(tmp_path / "votes.npy", games())
    (tmp_path / "votes.npy").rename(tmp_path / "votes.npz")
    with pytest.raises(DataError, match="is one array without a name"):
        read_votes_npz(tmp_path / "votes.npz")
