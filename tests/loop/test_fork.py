"""A run that forks from another run's round shares what was generated and judged there."""

import shutil

import pytest

from .comparison import differences
from .harness import finished_work

SHARED = ("candidates", "preferences")


def forking(source, *arguments):
    return ("--from", f"{source.folder}@round_001", "--model.objective", "DPO", *arguments)


@pytest.fixture(scope="module")
def unbroken_fork(unbroken, make_unbroken):
    return make_unbroken(*forking(unbroken))


def inodes(folder, stages=SHARED):
    return {
        path.relative_to(folder): path.stat().st_ino
        for stage in stages
        for path in (folder / "rounds" / "round_001" / stage).rglob("*.parquet")
    }


def test_nothing_is_generated_or_judged_again(unbroken, unbroken_fork):
    assert inodes(unbroken_fork.folder) == inodes(unbroken.folder)
    assert len(inodes(unbroken.folder)) == 6
    output = (unbroken_fork.parent / "run_attempt_01.log").read_text()
    assert "round 1: reference" in output
    assert "round 1: generating" not in output
    assert "round 1: judging" not in output


def test_the_other_objective_trains_another_policy_from_the_shared_one(unbroken, unbroken_fork):
    theirs, ours = unbroken.folder / "exports", unbroken_fork.folder / "exports"
    shared, trained = "round_000/model.safetensors", "round_001/model.safetensors"
    assert (ours / shared).stat().st_ino == (theirs / shared).stat().st_ino
    assert (ours / trained).read_bytes() != (theirs / trained).read_bytes()


def test_another_judge_judges_the_shared_responses(unbroken, make_unbroken):
    fork = make_unbroken(*forking(unbroken, "--data.oracle.quality_weight", "0.1"))
    assert inodes(fork.folder, ["candidates"]) == inodes(unbroken.folder, ["candidates"])
    assert not set(inodes(fork.folder, ["preferences"]).values()) & set(inodes(unbroken.folder).values())


@pytest.mark.parametrize(
    "point",
    [
        "before_rename:fork:1",
        "after_rename:fork:1",
        "before_rename:fork:2",
        "after_rename:fork:2",
        "after_rename:reference_logps:2",
        "after_optimizer_step:3",
    ],
)
def test_a_killed_fork_goes_on(point, unbroken, unbroken_fork, new_run):
    before = unbroken.contents()
    run = new_run(*forking(unbroken))
    assert run.fit(crash_at=point).was_killed
    assert run.fit().code == 0
    assert differences(run, unbroken_fork) == []
    assert unbroken.contents() == before


def test_a_fork_goes_on_without_its_source(unbroken, unbroken_fork, new_run, tmp_path):
    source = unbroken.copied_to(tmp_path / "source")
    run = new_run(*forking(source))
    assert run.fit(crash_at="after_optimizer_step:3").was_killed
    linked = finished_work(run.folder)
    shutil.rmtree(source.parent)
    assert run.fit().code == 0
    assert linked.items() <= finished_work(run.folder).items()
    assert differences(run, unbroken_fork) == ["differs: run.json"]


def test_a_damaged_source_is_named(unbroken, new_run, tmp_path):
    source = unbroken.copied_to(tmp_path / "source")
    (chunk,) = source.folder.glob("rounds/round_001/candidates/00001-*.parquet")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    attempt = new_run(*forking(source)).fit()
    assert attempt.code == 2
    assert str(chunk) in attempt.error


def test_a_round_that_the_source_does_not_have_is_an_error(unbroken, new_run):
    attempt = new_run("--from", f"{unbroken.folder}@round_007", "--data.num_rounds", "8").fit()
    assert attempt.code == 2
    assert "round_007 is not a complete round" in attempt.error
