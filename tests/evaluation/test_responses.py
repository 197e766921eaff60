"""Responses are sampled once, nested, each with a seed of its own, and survive a kill in the middle."""

import json

import pytest

from sppo_lightning.errors import EngineError, RunFolderError
from sppo_lightning.evaluation import responses
from sppo_lightning.evaluation.responses import stored_responses


def test_responses_are_sampled_once_and_kept(world, table):
    first = world()
    sampled = first.bank.responses(table.single("start"), 4)
    again = world()
    assert again.bank.responses(table.single("start"), 4) == sampled
    assert first.engine.calls == 1
    assert again.engine.calls == 0
    assert not first.engine.is_open
    assert sampled.num_candidates == [4] * 40
    assert sampled.prompt_token_ids == [[1, 1]] * 40
    assert first.bars.shown == [["evaluating start", 160, "responses", 160]]


def test_more_samples_keep_the_first_ones(world, table):
    few = world().bank.responses(table.single("start"), 3)
    more = world()
    many = more.bank.responses(table.single("start"), 8)
    later = world().bank.responses(table.single("start"), 5, first=3)
    assert [texts[:3] for texts in many.texts] == few.texts
    assert [texts[3:] for texts in many.texts] == later.texts
    assert len(more.engine.asked) == 40 * 5


def test_every_response_has_a_seed_of_its_own(world, table):
    one, other = world(), world(seed=1)
    for name in ("start", "even"):
        one.bank.responses(table.single(name), 4)
    other.bank.responses(table.single("start"), 4)
    seeds = [seed for _, seed in [*one.engine.asked, *other.engine.asked]]
    assert len(set(seeds)) == len(seeds) == 3 * 4 * 40


def test_a_mixture_of_policies_that_answered_costs_nothing(world, table):
    both = world()
    own = {name: both.bank.responses(table.single(name), 6) for name in ("start", "papery")}
    asked = len(both.engine.asked)
    mixed = both.bank.responses(table.mixture(start=0.25, papery=0.75), 6)
    assert len(both.engine.asked) == asked
    drawn = [
        [{name for name in own if own[name].texts[b][k] == text} for k, text in enumerate(texts)]
        for b, texts in enumerate(mixed.texts)
    ]
    assert all(names for group in drawn for names in group), "sample k is some member's own sample k"
    papery = sum(names == {"papery"} for group in drawn for names in group)
    start = sum(names == {"start"} for group in drawn for names in group)
    # Where the two members' samples differ, 3 of 4 are papery's: 240 draws, about 180 of them telling.
    assert papery / (papery + start) == pytest.approx(0.75, abs=0.12)
    assert world().bank.responses(table.mixture(start=0.25, papery=0.75), 6) == mixed


def test_a_mixture_samples_only_what_was_drawn(world, table):
    fresh = world()
    fresh.bank.responses(table.mixture(start=0.5, even=0.5), 4)
    assert len(fresh.engine.asked) == 40 * 4


def test_a_kill_in_the_middle_loses_one_chunk(world, table, monkeypatch):
    monkeypatch.setattr(responses, "_RESPONSES_A_CHUNK", 40)  # 10 prompts
    killed = world(engine=table.speaker(dies_after=2))
    with pytest.raises(EngineError):
        killed.bank.responses(table.single("start"), 4)
    assert not killed.engine.is_open
    resumed = world()
    whole = resumed.bank.responses(table.single("start"), 4)
    assert resumed.engine.asked[0][0] == "p20"
    assert len(resumed.engine.asked) == 20 * 4
    names = sorted(path.name for path in killed.bank.folder.glob("start/held_out-*/*.parquet"))
    assert len(names) == 4
    for path in killed.bank.folder.glob("start/held_out-*/*.parquet"):
        path.unlink()
    unbroken = world()
    assert unbroken.bank.responses(table.single("start"), 4) == whole
    assert sorted(path.name for path in killed.bank.folder.glob("start/held_out-*/*.parquet")) == names


def test_other_prompts_sampling_or_seed_never_share_files(world, table):
    keys = {world().bank.key, world(num_prompts=39).bank.key, world(seed=1).bank.key}
    engine = table.speaker()
    engine.sampling = type(engine.sampling)(temperature=0.7)
    keys.add(world(engine=engine).bank.key)
    assert len(keys) == 4


def test_what_the_digits_stand_for_is_written_down(world, table):
    bank = world().bank
    bank.responses(table.single("start"), 2)
    settings = json.loads((bank.folder / "prompt_sets" / f"{bank.key}.json").read_text())
    assert settings["seed"] == 0
    assert settings["sampling"]["temperature"] == 1.0


def test_stored_responses_come_in_order_and_cut(world, table):
    bank = world().bank
    sampled = bank.responses(table.single("start"), 2)
    bank.responses(table.single("start"), 5)
    rows = stored_responses(bank.folder / "start", num_samples=2).to_pylist()
    texts = {(row["prompt_id"], row["candidate"]): row["text"] for row in rows}
    assert texts == {(p.prompt_id, k): sampled.texts[b][k] for b, p in enumerate(sampled.prompts) for k in range(2)}
    assert list(texts) == sorted(texts)
    assert stored_responses(bank.folder / "start").num_rows == 200
    assert stored_responses(bank.folder / "nobody").num_rows == 0


def test_a_damaged_chunk_is_named(world, table):
    bank = world().bank
    bank.responses(table.single("start"), 2)
    (chunk,) = bank.folder.glob("start/held_out-*/*.parquet")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=chunk.name):
        world().bank.responses(table.single("start"), 2)


def test_where_the_run_has_named_its_own_set_only_that_is_read(world, table):
    """A verb that asks with another seed or at another temperature leaves a second set beside it."""
    own, other = world().bank, world(seed=1).bank
    own.responses(table.single("start"), 2)
    other.responses(table.single("start"), 2)
    assert own.folder == other.folder
    assert stored_responses(own.folder / "start").num_rows == 160
    (own.folder / responses.OWN_SET).write_text(json.dumps({"key": own.key}))
    assert stored_responses(own.folder / "start").num_rows == 80
