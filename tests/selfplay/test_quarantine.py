"""Prompts without verdicts: counted over all processes, judged again when that is asked for."""

import threading
from dataclasses import replace

import pytest
import torch

from sppo_lightning.errors import OracleError
from sppo_lightning.oracles.round_judge import RoundJudge
from sppo_lightning.selfplay.quarantine import forget_quarantined, quarantined
from sppo_lightning.selfplay.store import RoundFolder

from .conftest import TokenGame


class Mute(TokenGame):
    """Has nothing to say about some prompts."""

    def __init__(self, *mute):
        super().__init__()
        self.mute = mute

    @property
    def name(self):
        return "TokenGame"

    def compare(self, candidates, opponents=None):
        matrix = super().compare(candidates, opponents)
        heard_B = torch.tensor([prompt.prompt_id not in self.mute for prompt in candidates.prompts])
        diagonal = torch.eye(*matrix.judged_BKJ.shape[1:], dtype=torch.bool) & matrix.self_play
        return replace(matrix, judged_BKJ=matrix.judged_BKJ & (heard_B[:, None, None] | diagonal))


def test_the_limit_holds_over_all_processes(play, prompts, tmp_path):
    """Each of two processes loses one prompt of seven, where only one may be lost."""
    barrier, said, folder = threading.Barrier(2), [None], RoundFolder(tmp_path / "shared")

    class Rank:
        size = 2

        def __init__(self, rank):
            self.rank = rank

        def barrier(self):
            barrier.wait(timeout=30)

        def broadcast(self, value):
            if self.rank == 0:
                said[0] = value
            barrier.wait(timeout=30)
            return said[0]

    errors = []

    def fit(rank):
        judge = RoundJudge(Mute("p0", "p3"), prompts, seed=1, max_quarantined=0.2)
        try:
            play(folder, world=Rank(rank), oracle=judge)
        except OracleError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=fit, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 2, "no process goes on, or waits for ever"
    assert "2 of the round's 7 prompts (p0, p3)" in errors[0] == errors[1]
    assert not folder.is_committed


def test_what_was_lost_is_judged_again(play, prompts, tmp_path):
    def judge(*mute, limit=1.0):
        return RoundJudge(Mute(*mute), prompts, seed=1, max_quarantined=limit)

    whole, folder = play(oracle=judge()).folder, RoundFolder(tmp_path / "retried")
    play(folder, oracle=judge("p4"))
    assert quarantined(folder, "TokenGame") == ["p4"]
    forget_quarantined(folder, "TokenGame")
    assert folder.has_chunk("preferences/TokenGame/self", 1), "a committed round is as it is"

    (folder.path / "manifest.json").unlink()
    with pytest.raises(OracleError, match=r"1 of the round's 7 prompts \(p4\)"):
        play(folder, oracle=judge(limit=0.0))
    forget_quarantined(folder, "TokenGame")
    again = judge(limit=0.0)
    play(folder, oracle=again)
    assert again.oracle.judged == ["p3", "p4", "p5"], "its chunk"
    assert quarantined(folder, "TokenGame") == []
    assert {path.relative_to(folder.path).as_posix(): path.read_bytes() for path in folder.path.rglob("*.parquet")} == {
        path.relative_to(whole.path).as_posix(): path.read_bytes() for path in whole.path.rglob("*.parquet")
    }, "targets and log-probabilities follow"
