"""`play_round` with members whose every answer is known."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sppo_lightning.errors import EngineError, OracleError
from sppo_lightning.functional.seeds import derive_seed
from sppo_lightning.io import carriers
from sppo_lightning.selfplay.opponents import History
from sppo_lightning.selfplay.pairing import BestWorst
from sppo_lightning.selfplay.store import RoundFolder
from sppo_lightning.selfplay.win_rates import win_rates
from sppo_lightning.types import PreferenceMatrix

from .conftest import SeedEngine, TokenGame, encode, fake_logps


def data_files(folder):
    """Name -> bytes of every table of a round."""
    return {path.relative_to(folder.path).as_posix(): path.read_bytes() for path in folder.path.rglob("*.parquet")}


def test_a_round_is_what_its_members_said(play, prompts):
    round_ = play(needs=("previous", "anchor"))
    folder, manifest = round_.folder, round_.manifest
    assert (manifest["round"], manifest["global_step"], manifest["policy"]) == (0, 5, "previous")
    candidates = folder.read_stage("candidates", 3).to_pylist()
    assert [(row["prompt_id"], row["candidate"]) for row in candidates] == [
        (prompt.prompt_id, k) for prompt in prompts for k in range(4)
    ]
    # One seed a response, from the run's seed, the round, the stage, the prompt and the sample; never from its chunk.
    for row in candidates:
        seed = derive_seed(11, "play", 0, "candidates", row["prompt_id"], row["candidate"])
        assert row["token_ids"] == [seed // 7**i % 7 + 3 for i in range(seed % 6 + 1)]
    matrix = carriers.preferences_from(folder.read_stage("preferences/TokenGame/self", 3), self_play=True)
    rates = win_rates(matrix).flatten().tolist()
    targets = folder.read_table("targets").to_pylist()
    assert [row["win_rate"] for row in targets] == pytest.approx(rates)
    finished = [row["finish_reason"] == "stop" for row in candidates]
    for row, ok in zip(targets, finished, strict=True):
        assert ok or not row["trained"], "truncated responses are masked"
    tokens = {(row["prompt_id"], row["candidate"]): row["token_ids"] for row in candidates}
    trained = [(row["prompt_id"], row["candidate"]) for row in targets if row["trained"]]
    assert len(trained) > 10
    for name in ("previous", "anchor"):
        logps = folder.read_stage(f"reference_logps/{name}", 3).to_pylist()
        assert [(row["prompt_id"], row["candidate"]) for row in logps] == trained, "exactly the kept rows"
        for row in logps:
            prompt = prompts[int(row["prompt_id"][1:])]
            ids = tokens[row["prompt_id"], row["candidate"]]
            expected = fake_logps(name, SimpleNamespace(prompt_ids=[encode(prompt)], response_ids=[ids]))
            assert row["logp"] == pytest.approx(float(expected))


def test_chunks_change_nothing(play):
    rounds = [play(chunk_prompts=size) for size in (1, 3, 7)]
    tables = [
        [round_.folder.read_stage("candidates", round_.folder.settings["num_chunks"])]
        + [round_.folder.read_table(name) for name in ("targets", "pairs")]
        for round_ in rounds
    ]
    assert tables[0] == tables[1] == tables[2]


def test_only_what_is_needed_is_computed(play):
    folder = play(needs=()).folder
    assert not (folder.path / "reference_logps").exists()
    assert not (folder.path / "opponents").exists()


def test_older_policies_answer_only_where_the_opponent_asks(play):
    engine = SeedEngine()
    with pytest.warns(UserWarning, match="2 of 3 policies"):
        round_ = play(engine=engine, opponent=History(num_policies=3, mixture=[0.5, 0.25, 0.25]), round_index=1)
    assert engine.opened == ["previous", "history/1"]
    older = round_.folder.read_stage("opponents/history_1", 3).to_pylist()
    assert [row["candidate"] for row in older[:4]] == [0, 1, 0, 1], "num_opponent_candidates of them"
    own = carriers.preferences_from(round_.folder.read_stage("preferences/TokenGame/self", 3), self_play=True)
    against = carriers.preferences_from(round_.folder.read_stage("preferences/TokenGame/history_1", 3), self_play=False)
    mixed = (0.5 * win_rates(own) + 0.25 * win_rates(against)) / 0.75
    rates = [row["win_rate"] for row in round_.folder.read_table("targets").to_pylist()]
    assert rates == pytest.approx(mixed.flatten().tolist())


def test_a_chunk_in_which_every_prompt_is_skipped(play):
    class Indifferent(TokenGame):
        def compare(self, candidates, opponents=None):
            matrix = super().compare(candidates, opponents)
            tie = ["p6" in prompt.prompt_id for prompt in candidates.prompts]
            probs = torch.where(torch.tensor(tie)[:, None, None], 0.5, matrix.probs_BKJ)
            return replace(matrix, probs_BKJ=probs)

    round_ = play(oracle=Indifferent(), pairing=BestWorst(), truncated="keep")  # p6 is alone in the last chunk
    assert round_.folder.read_chunk("reference_logps/previous", 2).num_rows == 0
    assert round_.manifest["metrics"]["round/skipped_prompts"] == 1


class StageError(Exception):
    pass


@pytest.mark.parametrize("stage", ["generate", "judge", "reference"])
def test_what_is_whole_is_not_made_again(play, tmp_path, stage):
    unbroken = play(needs=("previous", "anchor")).folder
    calls = 0

    def breaking(function):
        def wrapped(*arguments):
            nonlocal calls
            calls += 1
            if calls == 3:
                raise StageError
            return function(*arguments)

        return wrapped

    engine, oracle, logps = SeedEngine(), TokenGame(), fake_logps
    if stage == "generate":
        engine.generate = breaking(engine.generate)
    elif stage == "judge":
        oracle.compare = breaking(oracle.compare)
    else:
        logps = breaking(logps)
    folder = RoundFolder(tmp_path / "broken")
    with pytest.raises(StageError):
        play(folder, engine=engine, oracle=oracle, reference_logps=logps, needs=("previous", "anchor"))
    assert engine.policy is None, "the engine was closed"
    assert not folder.is_committed
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("0*.parquet")}
    assert len(before) == {"generate": 2, "judge": 3 + 2, "reference": 3 + 3 + 2}[stage]
    again = play(folder, needs=("previous", "anchor"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.engine.answered == (["p6"] if stage == "generate" else [])
    assert again.oracle.judged == {"generate": [f"p{b}" for b in range(7)], "judge": ["p6"], "reference": []}[stage]
    assert data_files(folder) == data_files(unbroken)


def test_two_processes_share_the_work(play, tmp_path):
    class Rank:
        size = 2

        def __init__(self, rank, barrier):
            self.rank, self._barrier = rank, barrier

        def barrier(self):
            self._barrier.wait(timeout=30)

    alone = play().folder
    barrier, folder = threading.Barrier(2), RoundFolder(tmp_path / "shared")
    engines = [SeedEngine(), SeedEngine()]
    threads = [
        threading.Thread(target=play, args=(folder,), kwargs={"world": Rank(rank, barrier), "engine": engines[rank]})
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(engines[0].answered) == ["p0", "p1", "p2", "p6"]
    assert sorted(engines[1].answered) == ["p3", "p4", "p5"]
    assert data_files(folder) == data_files(alone)


def test_an_engine_that_answers_something_else_is_refused(play):
    class Short(SeedEngine):
        def generate(self, prompts, seeds_BK):
            return super().generate(prompts, [seeds[:2] for seeds in seeds_BK])

    class OtherTemplate(SeedEngine):
        def generate(self, prompts, seeds_BK):
            candidates = super().generate(prompts, seeds_BK)
            return replace(candidates, prompt_token_ids=[[9, *ids] for ids in candidates.prompt_token_ids])

    with pytest.raises(EngineError, match="Short returned 2 responses for prompt p0, 4 were asked for"):
        play(engine=Short())
    with pytest.raises(EngineError, match="OtherTemplate saw other tokens for prompt p0"):
        play(engine=OtherTemplate())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda matrix: PreferenceMatrix(probs_BKJ=matrix.probs_BKJ[:, :3, :3]),
        lambda matrix: PreferenceMatrix(probs_BKJ=matrix.probs_BKJ[:1]),
        lambda matrix: replace(matrix, self_play=False),
    ],
    ids=["fewer candidates", "fewer prompts", "other opponents"],
)
def test_an_oracle_that_judges_something_else_is_refused(play, spoil):
    class Wrong(TokenGame):
        def compare(self, candidates, opponents=None):
            return spoil(super().compare(candidates, opponents))

    with pytest.raises(OracleError, match=r"Wrong returned preferences .* it must be \(3, 4, 4\) with self_play=True"):
        play(oracle=Wrong())


def test_an_engine_that_forgets_a_prompt_is_named(play):
    class Forgetful(SeedEngine):
        def generate(self, prompts, seeds_BK):
            return super().generate(prompts[1:], seeds_BK[1:])

    with pytest.raises(EngineError, match="Forgetful returned responses for 2 prompts, 3 were asked"):
        play(engine=Forgetful())
