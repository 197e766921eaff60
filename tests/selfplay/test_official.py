"""A round's data under the official column names: out, in again, and played."""

import json
import math

import pyarrow.parquet as pq
import pytest
import torch

from sppo_lightning.errors import ConfigError, DataError, RunFolderError
from sppo_lightning.io import carriers
from sppo_lightning.selfplay.official import export_round, import_round
from sppo_lightning.selfplay.pairing import All, BestWorst
from sppo_lightning.selfplay.players import RoundSettings
from sppo_lightning.selfplay.store import RoundFolder

from .conftest import SeedEngine, TokenGame


class Untouchable(SeedEngine, TokenGame):
    """An engine and an oracle that an imported round must not ask."""

    def open(self, policy):
        raise AssertionError("an imported round generates nothing")

    def compare(self, candidates, opponents=None):
        raise AssertionError("an imported round judges nothing")


@pytest.fixture
def import_file(tmp_path, tiny):
    """import_file(source, **settings) -> the folder of a round that was laid down from it."""

    def import_file(source, **changes):
        if not isinstance(source, str):
            path = tmp_path / "official.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in source))
            source = str(path)
        folder = RoundFolder(tmp_path / "imported" / "round_000")
        settings = {
            "tokenizer": tiny.tokenizer(),
            "max_prompt_tokens": 50,
            "held_out": (),
            "self_comparison": False,
            "seed": 1,
            "chunk_prompts": 3,
        }
        import_round(folder, source, **settings | changes)
        return folder

    return import_file


def targets_of(folder):
    rows = [
        {name: value for name, value in row.items() if name != "score"}
        for row in folder.read_table("targets").to_pylist()
    ]
    return rows, folder.read_table("pairs").to_pylist()


def finish(play, folder, **members):
    """Plays what is missing of an imported round."""
    prompts, token_ids = carriers.prompts_from(folder.read_prompts())
    return play(
        folder,
        prompts=prompts,
        prompt_token_ids=token_ids,
        settings=RoundSettings(**folder.settings),
        engine=Untouchable(),
        oracle=Untouchable(),
        **members,
    )


def chat(*turns):
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(turns)]


# The official pair file: conversations, and the win rates that its scripts computed from five responses each.
def asked(text):
    """A single user turn as `Prompt.conversation` gives it: ids play no part."""
    return (("user", text),)


OFFICIAL_PAIRS = [
    {
        "chosen": chat(f"w{b} w0", "w1 w2"),
        "rejected": chat(f"w{b} w0", "w3"),
        "chosen_probs": 0.9,
        "chosen_probs_win": 0.7 + b / 100,
        "chosen_probs_lose": 0.3,
    }
    for b in range(4)
]


@pytest.mark.parametrize("pairing", [All(), BestWorst()])
def test_a_round_comes_back_as_it_went(play, import_file, tmp_path, pairing):
    original = play(pairing=pairing, truncated="keep")
    path = str(tmp_path / "round.parquet")
    export_round(original.folder.path, path)
    assert {"chosen", "rejected", "chosen_probs", "chosen_probs_win", "chosen_probs_lose"} <= set(
        pq.read_schema(path).names
    )
    folder = import_file(path)
    finish(play, folder, pairing=pairing)
    assert targets_of(folder) == targets_of(original.folder)
    texts = [
        [(row["prompt_id"], row["candidate"], row["text"]) for row in f.read_stage("candidates", 3).to_pylist()]
        for f in (folder, original.folder)
    ]
    assert texts[0] == texts[1]


def test_an_export_says_what_was_trained_on(play, tmp_path):
    folder = play(pairing=BestWorst()).folder
    export_round(folder.path, tmp_path / "round.parquet")
    rows = pq.read_table(tmp_path / "round.parquet").to_pylist()
    texts = {(r["prompt_id"], r["candidate"]): r["text"] for r in folder.read_stage("candidates", 3).to_pylist()}
    rates = {(r["prompt_id"], r["candidate"]): r["win_rate"] for r in folder.read_table("targets").to_pylist()}
    pairs = folder.read_table("pairs").to_pylist()
    assert len(rows) == len(pairs) > 2
    for row, pair in zip(rows, pairs, strict=True):
        chosen, rejected = ((pair["prompt_id"], pair[name]) for name in ("chosen", "rejected"))
        assert row["chosen"][-1] == {"role": "assistant", "content": texts[chosen]}
        assert row["rejected"][-1] == {"role": "assistant", "content": texts[rejected]}
        assert row["chosen_probs"] == pair["pair_prob"]
        assert (row["chosen_probs_win"], row["chosen_probs_lose"]) == (rates[chosen], rates[rejected])


def test_only_a_complete_round_is_exported(tmp_path, import_file):
    folder = import_file(OFFICIAL_PAIRS)
    with pytest.raises(RunFolderError, match=r"is not a complete round \(it has no manifest.json\)"):
        export_round(folder.path, tmp_path / "round.parquet")


def test_the_official_pair_file_keeps_its_pairs_and_win_rates(play, import_file):
    folder = import_file(OFFICIAL_PAIRS)
    metrics = finish(play, folder, pairing=All(), self_comparison=True).manifest["metrics"]
    rows, pairs = targets_of(folder)
    assert [row["win_rate"] for row in rows] == pytest.approx([r for b in range(4) for r in (0.7 + b / 100, 0.3)])
    assert all(row["trained"] and row["weight"] == 1 for row in rows)
    assert [(pair["chosen"], pair["rejected"], round(pair["pair_prob"], 6)) for pair in pairs] == [(0, 1, 0.9)] * 4
    assert metrics["cost/generated_tokens"] == metrics["cost/oracle_queries"] == 0
    assert metrics["round/trained_responses"] == 8


def test_a_pair_file_without_win_rates_gets_them_from_its_comparisons(play, import_file):
    rows = [
        {name: row[name] for name in ("chosen", "rejected", "chosen_probs")}
        for row in [*OFFICIAL_PAIRS, OFFICIAL_PAIRS[0] | {"rejected": chat("w0 w0", "w5"), "chosen_probs": 0.6}]
    ]
    folder = import_file(rows)
    finish(play, folder)
    targets, pairs = targets_of(folder)
    rates = [row["win_rate"] for row in targets if row["prompt_id"] == targets[0]["prompt_id"]]
    assert rates == pytest.approx([0.9, 0.1, 0.6, 0.4]), "of each pair by itself"
    assert len(pairs) == 5


def test_the_official_matrix_file_is_paired_here_and_may_be_ragged(play, import_file):
    cycle = [[0.5, 0.8, 0.3], [0.2, 0.5, 0.6], [0.7, 0.4, 0.5]]
    rows = [
        {
            "prompt": "w1",
            "generate_0": chat("w1", "w2"),
            "generate_1": chat("w1", "w3 w3"),
            "generate_2": chat("w1", "w4"),
        }
        | {"probability": cycle},
        {"prompt": "w2", "responses": ["w5", "w6"], "probability": [[0.5, 0.1], [0.9, 0.5]]},
    ]
    folder = import_file(rows)
    finish(play, folder, pairing=All())
    targets, pairs = targets_of(folder)
    assert [row["candidate"] for row in targets] == [0, 1, 2, 0, 1], "no response that is not there"
    assert [row["win_rate"] for row in targets] == pytest.approx([0.55, 0.4, 0.55, 0.1, 0.9])
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [(0, 1), (1, 2), (2, 0), (1, 0)]


def test_responses_are_tokenised_once_and_closed(import_file, tiny):
    folder = import_file(OFFICIAL_PAIRS)
    tokenizer = tiny.tokenizer()
    for row in folder.read_stage("candidates", 2).to_pylist():
        assert row["token_ids"] == [*tokenizer.convert_tokens_to_ids(row["text"].split()), tokenizer.eos_token_id]
        assert row["finish_reason"] == "stop"
        assert row["sampler_logp"] is None
    prompts, token_ids = carriers.prompts_from(folder.read_prompts())
    assert prompts[2].messages == ({"role": "user", "content": "w2 w0"},)
    assert token_ids[2] == [tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids(["w2", "w0"])]


def test_held_out_prompts_are_left_out(play, import_file):
    rows = [row | {"prompt_id": f"p{b}"} for b, row in enumerate(OFFICIAL_PAIRS)]
    folder = import_file(rows, held_out={asked("w1 w0"), asked("w2 w0"), asked("w9")})
    finish(play, folder)
    assert [row["prompt_id"] for row in targets_of(folder)[1]] == ["p0", "p3"]


def test_what_cannot_be_used_is_refused_before_anything_is_written(import_file, tmp_path, tiny):
    endless = tiny.tokenizer()
    endless.eos_token = None
    long_prompt = [OFFICIAL_PAIRS[0] | {key: chat("w1 " * 60, "w2") for key in ("chosen", "rejected")}]
    cases = [
        (
            ConfigError,
            "data.first_round_from: the policy's tokenizer has no end token",
            OFFICIAL_PAIRS,
            {"tokenizer": endless},
        ),
        (DataError, r"data.first_round_from: .*nowhere.parquet", str(tmp_path / "nowhere.parquet"), {}),
        (DataError, r"data.first_round_from: .*official.jsonl, line 1: has neither 'chosen'", [{"prompt": "w1"}], {}),
        (DataError, "data.first_round_from: prompt .* has 61 tokens", long_prompt, {}),
        (
            DataError,
            "every prompt of .* is held out",
            [OFFICIAL_PAIRS[0] | {"prompt_id": "x"}],
            {"held_out": {asked("w0 w0")}},
        ),
    ]
    for error, rule, source, changes in cases:
        with pytest.raises(error, match=rule):
            import_file(source, **changes)
        assert not (tmp_path / "imported" / "round_000").exists()


def test_unjudged_comparisons_stay_unjudged(play, import_file):
    nan_row = {
        "prompt": "w1",
        "responses": ["w2", "w3", "w4"],
        "probability": [[0.5, 0.8, None], [0.2, 0.5, None], [None, None, 0.5]],
    }
    folder = import_file([nan_row])
    finish(play, folder, pairing=All())
    targets, pairs = targets_of(folder)
    assert [row["trained"] for row in targets] == [True, True, False]
    assert math.isnan(targets[2]["win_rate"])
    assert len(pairs) == 1
    matrix = carriers.preferences_from(folder.read_stage("preferences/imported/self", 1), self_play=True)
    assert torch.equal(matrix.judged_BKJ[0, 2], torch.tensor([False, False, True]))
