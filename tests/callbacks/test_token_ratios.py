"""Log-ratios of a round against a computation with the exports themselves, and the text of single tokens."""

import json

import pytest
import torch
from sppo_lightning.callbacks.token_ratios import token_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


@torch.no_grad()
def test_token_ratios_are_those_of_the_exports(finished_run):
    run = finished_run.module.run_folder
    old, new = (AutoModelForCausalLM.from_pretrained(run.export(index)) for index in (0, 1))
    folder = run.round(1)
    prompts = {row["messages"][-1]["content"]: row for row in folder.read_prompts().to_pylist()}
    responses = folder.read_stage("candidates", folder.settings["num_chunks"]).to_pylist()
    rates = {}
    for row in folder.read_table("targets").to_pylist():
        rates.setdefault(row["prompt_id"], {})[row["candidate"]] = row["win_rate"]
    shown = json.loads((finished_run.root / "eval/round_001/token_ratios.json").read_text())
    assert [sample["kind"] for sample in shown] == ["winner", "loser"] * 3
    for sample in shown:
        prompt = prompts[sample["prompt"]]
        mine = rates[prompt["prompt_id"]]
        end = max if sample["kind"] == "winner" else min
        assert sample["win_rate"] == end(mine.values())
        candidates = [row for row in responses if row["prompt_id"] == prompt["prompt_id"]]
        possible = []
        for row in candidates:
            if mine[row["candidate"]] == sample["win_rate"]:
                ids = [*prompt["prompt_token_ids"], *row["token_ids"]]
                logps = [
                    model(torch.tensor([ids])).logits[0, len(prompt["prompt_token_ids"]) - 1 : -1].log_softmax(-1)
                    for model in (new, old)
                ]
                possible.append((logps[0] - logps[1])[torch.arange(len(row["token_ids"])), row["token_ids"]].tolist())
        assert any(sample["log_ratios"] == pytest.approx(each, abs=1e-4) for each in possible)
        assert len(sample["tokens"]) == len(sample["log_ratios"])


def test_winners_and_losers_are_means_over_prompts(finished_run):
    for index in (0, 1, 2):
        measured = json.loads((finished_run.root / f"eval/round_{index:03d}/log_ratios.json").read_text())
        for kind in ("winner", "loser"):
            name = f"round/{kind}_log_ratio"
            assert measured[f"{name}_low"] < measured[name] < measured[f"{name}_high"]
            assert finished_run.metrics(name)[index] == measured[name]
        assert measured["round/winner_log_ratio"] > measured["round/loser_log_ratio"]


def test_token_texts_add_up_to_the_text_whatever_the_tokens_cut_through():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    text = "a \u20ac!"  # the euro sign is three bytes, three tokens
    pieces = token_texts(fast, fast(text)["input_ids"])
    assert pieces == ["a", " ", "", "", "\u20ac", "!"]
    unfinished = token_texts(fast, fast(text)["input_ids"][:3])
    assert unfinished == ["a", " ", "\ufffd"]
