"""A missing, cut, emptied or bit-flipped file of a run is an error that names it, and nothing is trained on it."""

import io
import random
import shutil
from pathlib import Path

import pytest
import torch

from sppo_lightning.errors import RunFolderError
from sppo_lightning.training.checkpoint import AtomicCheckpointIO

from .comparison import differences
from .harness import Run, finished_work, made_again
from .test_kill import HISTORY

ROUND = "rounds/round_001"
# The files that the training of round 1 rests on; of several chunks, the second.
COMMITTED = {
    "run": "run.json",
    "checkpoint": "checkpoints/last.ckpt",
    "settings": f"{ROUND}/round.json",
    "manifest": f"{ROUND}/manifest.json",
    "prompts": f"{ROUND}/prompts.parquet",
    "candidates": f"{ROUND}/candidates/00001-*.parquet",
    "opponents": f"{ROUND}/opponents/history_1/00001-*.parquet",
    "preferences": f"{ROUND}/preferences/StyleGame/self/00001-*.parquet",
    "preferences-history_1": f"{ROUND}/preferences/StyleGame/history_1/00001-*.parquet",
    "targets": f"{ROUND}/targets.parquet",
    "pairs": f"{ROUND}/pairs.parquet",
    "previous": f"{ROUND}/reference_logps/previous/00001-*.parquet",
    "anchor": f"{ROUND}/reference_logps/anchor/00001-*.parquet",
}


def flip_a_bit(path: Path, position: int | None = None) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 0b00000100
    path.write_bytes(content)


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip_a_bit,
}


def file_of(run: Run, pattern: str) -> Path:
    (path,) = run.folder.glob(pattern)
    return path


def assert_refused_by_name(run: Run, path: Path) -> None:
    before = run.contents()
    attempt = run.fit()
    assert attempt.code == 2, attempt.output[-3000:]
    assert path.relative_to(run.folder).as_posix() in attempt.error
    after = run.contents()
    # config.yaml says where the run lies, and this copy lies elsewhere than the original.
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {"config.yaml"}


@pytest.fixture(scope="module")
def in_training(launcher, store, tmp_path_factory) -> Run:
    """Killed in the middle of training on round 1, whose opponents include the policy of round 0."""
    run = Run(launcher, tmp_path_factory.mktemp("in_training"), *HISTORY, store=store)
    run.arguments += ("--model.checkpoint_every_n_steps", "1")
    assert run.fit(crash_at="before_epoch_checkpoint:3").was_killed
    return run


@pytest.fixture(scope="module")
def in_play(launcher, store, tmp_path_factory) -> Run:
    """Killed while round 1 is played: its targets are on disk, its manifest is not."""
    run = Run(launcher, tmp_path_factory.mktemp("in_play"), store=store)
    assert run.fit(crash_at="after_rename:targets:2").was_killed
    return run


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", COMMITTED)
def test_a_damaged_file_of_the_round_in_training_is_named(kind, damage, in_training, tmp_path):
    if (kind, damage) == ("checkpoint", "missing"):
        pytest.skip("the rounds on disk are trained again: test_kill.py")
    run = in_training.copied_to(tmp_path / "copy")
    path = file_of(run, COMMITTED[kind])
    DAMAGES[damage](path)
    assert_refused_by_name(run, path)


def test_a_round_deleted_in_the_middle_of_its_training_is_not_played_again(in_training, tmp_path):
    run = in_training.copied_to(tmp_path / "copy")
    shutil.rmtree(run.folder / ROUND)
    assert_refused_by_name(run, run.folder / ROUND / "manifest.json")


def test_without_damage_the_same_run_goes_on(in_training, tmp_path, make_unbroken):
    run = in_training.copied_to(tmp_path / "copy")
    assert run.fit().code == 0
    assert differences(run, make_unbroken(*run.arguments)) == []


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("settings", "missing"),
        ("settings", "flipped"),
        ("prompts", "missing"),
        ("prompts", "flipped"),
        ("candidates", "flipped"),
        ("preferences", "flipped"),
    ],
)
def test_a_damaged_file_of_the_round_in_play_is_named(kind, damage, in_play, tmp_path):
    run = in_play.copied_to(tmp_path / "copy")
    path = file_of(run, COMMITTED[kind])
    DAMAGES[damage](path)
    assert_refused_by_name(run, path)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [("candidates", "missing"), ("preferences", "missing"), ("targets", "missing"), ("targets", "flipped")],
)
def test_what_can_be_made_again_while_the_round_is_in_play_is(kind, damage, in_play, tmp_path, unbroken):
    run = in_play.copied_to(tmp_path / "copy")
    DAMAGES[damage](file_of(run, COMMITTED[kind]))
    finished = finished_work(run.folder)
    assert run.fit().code == 0
    assert made_again(finished, run.folder) == []
    assert differences(run, unbroken) == []


def restored(path: Path) -> bytes | None:
    """What a checkpoint file restores, or None if it is refused by name."""
    saved = io.BytesIO()
    try:
        torch.save(AtomicCheckpointIO().load_checkpoint(path), saved)
    except RunFolderError as error:
        return None if str(error).startswith(f"{path} is damaged") else b"another error"
    return saved.getvalue()


def test_no_flipped_bit_changes_what_a_checkpoint_restores(in_training, tmp_path):
    whole = in_training.folder / "checkpoints" / "last.ckpt"
    positions = random.Random(0)
    outcomes = []
    for _ in range(40):
        path = shutil.copyfile(whole, tmp_path / "last.ckpt")
        flip_a_bit(path, positions.randrange(path.stat().st_size))
        outcomes.append(restored(path))
    # Bits of the padding between two entries belong to nothing.
    assert set(outcomes) <= {None, restored(whole)}
    assert outcomes.count(None) > 20
