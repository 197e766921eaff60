"""Answers are kept once, by whoever gets them first, and nothing damaged is believed."""

import os
import sqlite3
import warnings
from contextlib import closing

import pytest

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.judgements import JudgementStore

A, B, C = (bytes([n]) * 20 for n in (1, 2, 3))


@pytest.fixture
def store(tmp_path):
    return JudgementStore(tmp_path / "runs" / "judgements.db")


def test_what_was_written_is_read_by_another(store):
    store.write("Judge", {A: b"12345678", B: None})
    assert JudgementStore(store.path).read([A, B, C]) == {A: b"12345678", B: None}


def test_many_keys_at_once(store):
    answers = {n.to_bytes(20, "big"): str(n).encode() for n in range(2100)}
    store.write("Judge", answers)
    assert store.read([*answers, C]) == answers


def test_a_claim_keeps_others_away_until_it_ends(store):
    other = JudgementStore(store.path)
    with store.claim([A, B]) as mine:
        assert mine == [A, B]
        with other.claim([B, C]) as theirs:
            assert theirs == [C]
        store.write("Judge", {A: b"1"})
    with other.claim([A, B]) as theirs:
        assert theirs == [B], "A is answered, and the claim on B has ended"


def test_a_claim_ends_with_an_error(store):
    with pytest.raises(ZeroDivisionError), store.claim([A]):
        raise ZeroDivisionError
    with store.claim([A]) as mine:
        assert mine == [A]
    assert list(store.path.with_name("judgements.db.claims").iterdir()) == []


def test_a_claim_ends_with_its_process(store):
    child = os.fork()
    if not child:
        try:
            with store.claim([A]):
                os._exit(9)  # nothing is cleaned up, as under SIGKILL
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with store.claim([A]) as mine:
        assert mine == [A]


def test_locks_of_the_killed_are_swept_after_a_day(store):
    store.write("Judge", {A: b"1"})
    locks = store.path.with_name("judgements.db.claims")
    locks.mkdir()
    for name in ("old", "young"):
        (locks / name).touch()
    os.utime(locks / "old", (0, 0))
    with store.claim([B]):
        assert {path.name for path in locks.iterdir()} >= {"young"}
    assert [path.name for path in locks.iterdir()] == ["young"]


def test_only_unanswered_questions_are_forgotten(store):
    store.write("Judge", {A: b"1", B: None})
    store.forget_unanswered([A, B, C])
    assert store.read([A, B]) == {A: b"1"}


def overwrite_header(path):
    path.write_bytes(b"not a database, but as long as one\n" * 1000)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_one_bit_of_an_answer(path):
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE judgements SET answer = ? WHERE key = ?", (b"2", A))


@pytest.mark.parametrize("damage", [overwrite_header, cut_in_half, flip_one_bit_of_an_answer])
def test_a_damaged_file_is_set_aside_and_never_believed(store, damage):
    store.write("Judge", {A: b"1"} | {n.to_bytes(20, "big"): b"x" * 100 for n in range(500)})
    damage(store.path)
    damaged = store.path.read_bytes()
    with pytest.warns(UserWarning, match=r"judgement cache is damaged .* moved to judgements\.db\.damaged-"):
        assert JudgementStore(store.path).read([A]) == {}
    (aside,) = store.path.parent.glob("judgements.db.damaged-*")
    assert aside.read_bytes() == damaged, "it is kept for whoever wants to look"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.write("Judge", {A: b"3"})  # who had it open goes on with the new one
        assert JudgementStore(store.path).read([A]) == {A: b"3"}


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / "judgements.db").mkdir()
    with pytest.raises(
        RunFolderError, match=r"judgements\.db: the judgement cache cannot be used: .*--data\.judging\.c"
    ):
        JudgementStore(tmp_path / "judgements.db").read([A])
