"""A run whose first round is imported from a preference file, killed around the import."""

import pytest

from sppo_lightning.selfplay.official import export_round

from .comparison import differences
from .harness import finished_work, made_again


@pytest.fixture(scope="module")
def arguments(unbroken, tmp_path_factory):
    path = tmp_path_factory.mktemp("official") / "round_000.parquet"
    export_round(unbroken.folder / "rounds" / "round_000", path)
    return ("--data.first_round_from", str(path))


@pytest.fixture(scope="module")
def unbroken_import(arguments, make_unbroken):
    return make_unbroken(*arguments)


def test_the_first_round_is_neither_generated_nor_judged(unbroken_import):
    output = (unbroken_import.parent / "run_attempt_01.log").read_text()
    assert "round 0: reference" in output
    assert "round 0: generating" not in output
    assert "round 0: judging" not in output
    assert "round 1: judging" in output


@pytest.mark.parametrize("point", ["before_rename:import:1", "after_rename:import:1", "after_optimizer_step:2"])
def test_a_kill_leaves_no_trace(point, arguments, unbroken_import, new_run):
    run = new_run(*arguments)
    assert run.fit(crash_at=point).was_killed
    finished = finished_work(run.folder)
    assert run.fit().code == 0
    assert made_again(finished, run.folder) == []
    assert differences(run, unbroken_import) == []
