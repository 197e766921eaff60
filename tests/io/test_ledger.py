"""Nothing is spent beyond a limit, whoever spends."""

import os

import pytest

from sppo_lightning.errors import RunFolderError
from sppo_lightning.io.ledger import Ledger, Limit


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "run" / "judging.json")


def test_as_many_as_the_limit_has_room_for(ledger):
    assert ledger.reserve("round_000", [(2, 0.1)] * 3, Limit(queries=7)) == 3
    assert ledger.reserve("round_001", [(2, 0.1)] * 3, Limit(queries=7)) == 0
    assert ledger.reserve("round_001", [(1, 0.1)] * 3, Limit(queries=7)) == 1
    assert ledger.spent() == (7, pytest.approx(0.4))
    assert ledger.spent("round_001") == (1, pytest.approx(0.1))


def test_dollars_add_up_exactly_to_the_limit(ledger):
    assert ledger.reserve("r", [(1, 0.1)] * 5, Limit(usd=0.3)) == 3
    ledger.correct("r", -0.2)
    assert ledger.reserve("r", [(1, 0.1)] * 5, Limit(usd=0.3)) == 2


def test_processes_share_it(ledger):
    children = []
    for _ in range(4):
        children.append(os.fork())
        if not children[-1]:
            taken = 99
            try:
                taken = sum(ledger.reserve("r", [(1, 0.0)], Limit(queries=30)) for _ in range(10))
            finally:
                os._exit(taken)
    taken = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert taken == 30 == ledger.spent()[0]


def test_a_damaged_record_is_an_error_and_not_a_new_budget(ledger):
    ledger.reserve("r", [(1, 0.0)], Limit())
    ledger.path.write_text(ledger.path.read_text().replace("1", "0", 1))
    with pytest.raises(RunFolderError, match="checksum"):
        ledger.reserve("r", [(1, 0.0)], Limit(queries=1))
