"""The data module: prompts in every form, the split, rounds from files, and refusals before a model is loaded."""

import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM

from sppo_lightning.engines.base import Engine
from sppo_lightning.errors import ConfigError, DataError, RunFolderError
from sppo_lightning.io import carriers
from sppo_lightning.objectives import DPO, SPPO
from sppo_lightning.selfplay.official import export_round
from sppo_lightning.selfplay.pairing import All, BestWorst
from sppo_lightning.training.data import SelfPlayDataModule
from sppo_lightning.training.prompt_split import PromptSplit
from sppo_lightning.training.run_folder import RunFolder

TEXTS = [f"w{b % 9} w{b // 9}" for b in range(30)]


def write(path, form):
    """The thirty prompts in one of the forms that people have."""
    rows = [{"prompt": text} for text in TEXTS]
    chats = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "w1"}]} for text in TEXTS
    ]
    if form == "prompts.jsonl":
        (path / form).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "chats.jsonl":
        (path / form).write_text("".join(json.dumps(row) + "\n" for row in chats))
    elif form == "strings.json":
        (path / form).write_text(json.dumps(TEXTS))
    elif form == "lines.txt":
        (path / form).write_text("\n".join(TEXTS))
    elif form == "table.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path / form)
    elif form == "chats.parquet":
        pq.write_table(pa.Table.from_pylist(chats), path / form)
    elif form == "table.csv":
        (path / form).write_text("prompt\n" + "\n".join(TEXTS))
    elif form == "folder":
        (path / form).mkdir()
        (path / form / "a.txt").write_text("\n".join(TEXTS[:10]))
        (path / form / "b.json").write_text(json.dumps(TEXTS[10:]))
    return str(path / form)


FORMS = ["prompts.jsonl", "chats.jsonl", "strings.json", "lines.txt", "table.parquet", "chats.parquet", "table.csv"]


def split(source, tiny, **changes):
    settings = {"seed": 0, "num_held_out": None, "max_prompt_tokens": 50} | changes
    return PromptSplit.read(source, tiny.tokenizer(), **settings)


def data_module(source, tiny, **settings):
    """A data module as it is while Trainer.fit prepares the data, without a Trainer."""
    data = SelfPlayDataModule(prompts=source, engine=None, oracle=tiny.word_game(), **settings)
    data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(tokenizer=tiny.tokenizer()))
    return data


@pytest.mark.parametrize("form", [*FORMS, "folder"])
def test_prompts_in_every_form_make_the_same_run(tmp_path, tiny, form):
    plain, same = split(write(tmp_path, "strings.json"), tiny), split(write(tmp_path, form), tiny)
    assert same.digest == plain.digest
    assert same.token_ids == plain.token_ids
    assert {prompt.text for prompt in [*same.train, *same.held_out]} == set(TEXTS)


def test_a_tenth_but_at_least_eight_prompts_are_held_out(tmp_path, tiny):
    path = tmp_path / "many.json"
    for count, expected in ((20, 8), (70, 8), (81, 8), (200, 20)):
        path.write_text(json.dumps([f"w{b % 9} " * (b // 9 + 1) for b in range(count)]))
        prompts = split(str(path), tiny)
        assert (len(prompts.held_out), len(prompts.train)) == (expected, count - expected)
        assert {prompt.prompt_id for prompt in prompts.held_out}.isdisjoint(p.prompt_id for p in prompts.train)


def test_no_held_out_prompts_if_none_are_asked_for(tmp_path, tiny):
    prompts = split(write(tmp_path, "strings.json"), tiny, num_held_out=0)
    assert (len(prompts.held_out), len(prompts.train)) == (0, 30)


def test_added_prompts_move_no_more_than_their_number(tmp_path, tiny):
    path = tmp_path / "prompts.json"

    def sides(texts, seed=0):
        path.write_text(json.dumps(texts))
        prompts = split(str(path), tiny, num_held_out=8, seed=seed)
        return {prompt.text for prompt in prompts.held_out}, [prompt.text for prompt in prompts.train]

    held_out, train = sides(TEXTS)
    assert sides(TEXTS[::-1]) == (held_out, train), "the order of the file does not matter"
    assert sides(TEXTS, seed=1) != (held_out, train)
    for added in (1, 3):
        now_held_out, now_train = sides([*TEXTS, *(f"w8 w8 w{b}" for b in range(added))])
        assert len(held_out - now_held_out) <= added
        assert [text for text in now_train if text in train] == train, "the rest keeps its order"


def test_rounds_take_turns(tmp_path, tiny):
    prompts = split(write(tmp_path, "strings.json"), tiny, num_held_out=5)
    assert prompts.of_round(3, None) == list(prompts.train)
    rounds = [prompts.of_round(t, 8) for t in range(4)]
    ids = [prompt.prompt_id for round_ in rounds[:3] for prompt in round_]
    assert len(set(ids)) == 24, "disjoint until every prompt has had its turn"
    assert rounds[3] == [prompts.train[24], *prompts.train[:7]], "then from the beginning again"


def test_token_ids_are_the_chat_template_s(tmp_path, tiny):
    data = data_module(write(tmp_path, "chats.jsonl"), tiny, held_out=2)
    tokenizer = tiny.tokenizer()
    assert len(data.held_out_prompts) == 2
    for prompt, ids in zip(data.held_out_prompts, data.held_out_token_ids, strict=True):
        assert ids == [1, *tokenizer.convert_tokens_to_ids(prompt.text.split())]


@pytest.mark.parametrize(("prompts_per_round", "steps"), [(None, 4), (5, 1), (8, 2)])
def test_the_most_steps_of_an_epoch(tmp_path, tiny, prompts_per_round, steps):
    data = data_module(
        write(tmp_path, "strings.json"), tiny, held_out=5, prompts_per_round=prompts_per_round, global_batch_prompts=7
    )
    assert data.most_steps_per_epoch == steps


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"num_candidates": 1}, "data.num_candidates must be at least 2, got 1"),
        ({"num_rounds": 0}, "data.num_rounds must be at least 1, got 0"),
        ({"held_out": -1}, "data.held_out must be at least 0, got -1"),
        ({"prompts_per_round": 0}, "data.prompts_per_round must be at least 1, got 0"),
        ({"fork_from": "quickstart"}, "data.fork_from must look like runs/quickstart@round_001, got 'quickstart'"),
        ({"fork_from": "run@round_000", "first_round_from": "x"}, "data.fork_from and data.first_round_from both say"),
    ],
)
def test_settings_that_cannot_be(settings, rule, tiny):
    with pytest.raises(ConfigError, match=rule):
        data_module("unused", tiny, **settings)


# --- what a fit refuses before it loads a model ----------------------------------------------------------------------


@pytest.fixture
def no_model(monkeypatch):
    """A model that is loaded nevertheless fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)


def test_a_small_file_gives_what_it_has(tmp_path, tiny):
    path = tmp_path / "five.txt"
    path.write_text("\n".join(f"w1 w{b}" for b in range(2, 7)))
    with pytest.warns(UserWarning, match="half of the 5 prompts"):
        prompts = split(str(path), tiny, num_held_out=24)
    assert (len(prompts.held_out), len(prompts.train)) == (2, 3)
    assert len(prompts.of_round(0, 86)) == 3
    (tmp_path / "one.txt").write_text("w1")
    with pytest.raises(ConfigError, match="too few to train on some and hold out others"):
        split(str(tmp_path / "one.txt"), tiny)


@pytest.mark.parametrize(
    ("settings", "error", "rule"),
    [
        ({"max_prompt_tokens": 7}, DataError, "has 8 tokens, more than data.max_prompt_tokens=7"),
        ({"prompts": "nowhere.jsonl"}, DataError, "nowhere.jsonl: there is no such file or folder"),
        ({"first_round_from": "nowhere.parquet"}, DataError, "data.first_round_from: nowhere.parquet: there is no"),
    ],
)
def test_data_that_cannot_be(tiny, policy_folder, tmp_path, no_model, settings, error, rule):
    run = tiny.make_run(tmp_path, policy_folder, **settings)
    with pytest.raises(error, match=rule):
        run.fit()
    assert not run.module.run_folder.has_begun


def test_other_prompts_than_the_run_began_with(tiny, policy_folder, tmp_path, no_model):
    run = tiny.make_run(tmp_path, policy_folder)
    RunFolder(tmp_path).update(prompts_sha256="of other prompts")
    RunFolder(tmp_path).round(0).begin({}, pa.table({"prompt_id": ["p0"]}))
    with pytest.raises(RunFolderError, match=r"data\.prompts: .* does not hold what it held when"):
        run.fit()


def test_a_round_with_nothing_to_train_on(tiny, policy_folder, tmp_path):
    from sppo_lightning.engines import Transformers

    run = tiny.make_run(tmp_path, policy_folder, engine=Transformers(max_new_tokens=1), opponent=tiny.self_play())
    with pytest.raises(RunFolderError, match="has nothing to train on: every prompt was skipped"):
        run.fit()


# --- a first round from an official file -----------------------------------------------------------------------------


class CountingEngine(Engine):
    """Wraps an engine and notes which policies answered."""

    def __init__(self, engine):
        self.engine, self.sampling, self.opened = engine, engine.sampling, []

    def open(self, policy):
        self.opened.append(policy.name)
        self.engine.open(policy)

    def generate(self, prompts, seeds_BK):
        return self.engine.generate(prompts, seeds_BK)

    def close(self):
        self.engine.close()


@pytest.mark.parametrize("objective", [SPPO(eta=2.0), DPO()], ids=["SPPO", "DPO"])
def test_a_run_that_begins_with_an_official_file(tiny, policy_folder, finished_run, tmp_path, objective):
    """The finished run's first round goes out and is the first round of another run; the second is played."""
    from sppo_lightning.engines import Transformers

    source = finished_run.module.run_folder.round(0)
    path = tmp_path / "round_000.parquet"
    export_round(source.path, path)
    engine = CountingEngine(Transformers(max_new_tokens=16))
    run = tiny.make_run(
        tmp_path / "run",
        policy_folder,
        module_args={"objective": objective},
        engine=engine,
        opponent=tiny.self_play(),
        pairing=BestWorst(),
        num_rounds=2,
        epochs_per_round=1,
        first_round_from=str(path),
    )
    judged = type(run.data.oracle).calls
    run.fit()
    assert engine.opened == ["round_000"], "only the second round was generated"
    assert type(run.data.oracle).calls - judged == 3, "only the second round was judged, in three chunks"
    first, second = (run.module.run_folder.round(t) for t in (0, 1))
    exported = {row["prompt_id"] for row in pq.read_table(path).to_pylist()}
    assert {row["prompt_id"] for row in first.read_prompts().to_pylist()} == exported
    assert second.read_prompts().num_rows == 11
    assert first.manifest["metrics"]["cost/oracle_queries"] == 0
    # Of a file with matrices the run's own pairing chooses, from the same win rates.
    rates = {(r["prompt_id"], r["candidate"]): r["win_rate"] for r in source.read_table("targets").to_pylist()}
    for row in first.read_table("targets").to_pylist():
        assert row["win_rate"] == pytest.approx(rates[row["prompt_id"], row["candidate"]])
    assert first.read_table("pairs").num_rows == len(exported), "one a prompt: BestWorst"

    # Where the text says which tokens it was, they came back, and with them the log-probabilities.
    def logps(folder):
        num_chunks = folder.settings["num_chunks"]
        tokens = {
            (r["prompt_id"], r["candidate"]): tuple(r["token_ids"])
            for r in folder.read_stage("candidates", num_chunks).to_pylist()
        }
        rows = folder.read_stage("reference_logps/previous", num_chunks).to_pylist()
        keys = [(r["prompt_id"], r["candidate"]) for r in rows]
        return {(*key, tokens[key]): r["logp"] for key, r in zip(keys, rows, strict=True)}

    theirs, ours = logps(source), logps(first)
    assert len(theirs.keys() & ours.keys()) > 1
    for key in theirs.keys() & ours.keys():
        assert ours[key] == pytest.approx(theirs[key], abs=1e-4)
    first.verify()


def test_an_imported_round_is_laid_down_once(tiny, policy_folder, finished_run, tmp_path):
    """A restart does not read the file again: it may be gone, the round is on disk."""
    path = tmp_path / "round_000.parquet"
    export_round(finished_run.module.run_folder.round(0).path, path)
    settings = {
        "module_args": {"objective": SPPO(eta=2.0)},
        "opponent": tiny.self_play(),
        "pairing": All(),
        "num_rounds": 1,
        "first_round_from": str(path),
    }
    first = tiny.make_run(tmp_path / "run", policy_folder, stop_after="play", **settings)
    from sppo_lightning.training.data import RunPaused

    with pytest.raises(RunPaused, match="round 0 is played"):
        first.fit()
    path.unlink()
    second = tiny.make_run(tmp_path / "run", policy_folder, **settings).fit()
    assert second.module.rounds_finished == 1
    assert second.steps[0].step == 0


def test_held_out_prompts_of_an_official_file_are_not_trained_on(tiny, policy_folder, finished_run, tmp_path):
    path = tmp_path / "round_000.parquet"
    export_round(finished_run.module.run_folder.round(0).path, path)
    run = tiny.make_run(
        tmp_path / "run",
        policy_folder,
        module_args={"objective": SPPO(eta=2.0)},
        opponent=tiny.self_play(),
        num_rounds=1,
        seed=4,  # another split
        first_round_from=str(path),
    )
    exported = {row["prompt_id"] for row in pq.read_table(path).to_pylist()}
    run.module.trainer = run.trainer
    run.trainer.strategy.connect(run.module)
    run.data.trainer = run.trainer
    held_out = {prompt.prompt_id for prompt in run.data.held_out_prompts}
    assert held_out & exported, "the example must overlap"
    run.data.prepare_data()
    prompts, _ = carriers.prompts_from(run.module.run_folder.round(0).read_prompts())
    assert {prompt.prompt_id for prompt in prompts} == exported - held_out
