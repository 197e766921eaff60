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
from sppo_lightning.training.progress import NullProgress
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


class MeetingEngine(SeedEngine):
    """Generates a later chunk only once the first one has been judged."""

    def __init__(self):
        super().__init__()
        self.judged = threading.Event()

    def generate(self, prompts, seeds_BK):
        assert not self.answered or self.judged.wait(timeout=30), "nothing was judged meanwhile"
        return super().generate(prompts, seeds_BK)


class MeetingOracle(TokenGame):
    def __init__(self, engine):
        super().__init__()
        self.engine = engine

    @property
    def name(self):
        return "TokenGame"

    def compare(self, candidates, opponents=None):
        self.engine.judged.set()
        return super().compare(candidates, opponents)


class Listener(NullProgress):
    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


SIDE_BY_SIDE = {"cpu_at_once": 2, "reference_apart": True, "needs": ("anchor", "previous")}


def test_overlapping_stages_make_the_same_round(play):
    engine, progress = MeetingEngine(), Listener()
    together = play(engine=engine, oracle=MeetingOracle(engine), progress=progress, **SIDE_BY_SIDE)
    assert data_files(together.folder) == data_files(play(needs=SIDE_BY_SIDE["needs"]).folder)
    assert progress.said == ["these stages overlap, chunk by chunk: generate, judge, reference"]
    metrics = together.manifest["metrics"]
    assert all(metrics[f"time/{stage}"] > 0 for stage in ("generate", "judge", "reference"))
    assert metrics["time/overlap"] >= 0


@pytest.mark.parametrize("stage", ["generate", "judge", "reference"])
def test_what_is_whole_of_overlapping_stages_is_not_made_again(play, tmp_path, stage):
    def breaking(function):
        def wrapped(*arguments):
            if "p3" in str(arguments) or (stage == "reference" and len(calls) == 1):
                raise StageError
            calls.append(arguments)
            return function(*arguments)

        calls = []
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
        play(folder, engine=engine, oracle=oracle, reference_logps=logps, **SIDE_BY_SIDE)
    assert engine.policy is None, "the engine was closed"
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("0*.parquet")}
    assert before
    play(folder, **SIDE_BY_SIDE)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert data_files(folder) == data_files(play(needs=SIDE_BY_SIDE["needs"]).folder)


def test_older_policies_are_loaded_one_at_a_time(play):
    """With another policy's responses among the opponents nothing overlaps, whatever the room."""
    progress = Listener()
    play(opponent=History(num_policies=2), round_index=1, progress=progress, **SIDE_BY_SIDE)
    assert progress.said == []


@pytest.mark.parametrize("apart", [True, False])
def test_the_reference_waits_for_an_engine_that_uses_the_same_modules(play, apart):
    engine, open_meanwhile = SeedEngine(), []

    def logps(name, rows):
        open_meanwhile.append(engine.policy is not None)
        if apart:
            engine.frozen.set()
        return fake_logps(name, rows)

    generate, engine.frozen = engine.generate, threading.Event()

    def generate_last_when_one_is_frozen(prompts, seeds_BK):
        assert not apart or len(engine.answered) < 6 or engine.frozen.wait(timeout=30)
        return generate(prompts, seeds_BK)

    engine.generate = generate_last_when_one_is_frozen
    play(engine=engine, reference_logps=logps, cpu_at_once=2, reference_apart=apart)
    assert open_meanwhile[0] == apart


def test_on_one_device_stages_take_turns(play):
    progress = Listener()
    members = {"device": "cuda:0", "cpu_at_once": 2, "reference_apart": True, "progress": progress}
    play(**members)
    assert progress.said == []
    oracle = TokenGame()
    oracle.works_on = "elsewhere"
    play(oracle=oracle, **members)
    assert progress.said == ["these stages overlap, chunk by chunk: generate, judge, reference"]
