"""README's first command, and the same command on other prompts."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sppo_lightning.__main__ import main

QUICKSTART = ["fit", "--config", "configs/quickstart.yaml", "--trainer.default_root_dir"]


def test_the_quick_start_gets_better(tmp_path, capsys):
    assert main([*QUICKSTART, str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run/eval/round_003/metrics.json").read_text())
    assert metrics["round/win_rate_vs_start"] > 0.7
    assert metrics["round/win_rate_vs_start_low"] > 0.7
    for written in (
        "exports/mixture.json",
        "report.html",
        "eval/round_003/gaps.json",
        "eval/round_003/head_to_head.json",
    ):
        assert (tmp_path / "run" / written).is_file()
    shown = capsys.readouterr().out
    for expected in ("round  vs start", "before: ", "after : ", "exports/round_003", "-m mlflow server", "127.0.0.1"):
        assert expected in shown


PROMPTS = [f"What should a visitor to town number {n} see, and why? Answer in one sentence." for n in range(12)]
FORMS = {
    "strings.json": lambda: json.dumps(PROMPTS),
    "chats.jsonl": lambda: "".join(
        json.dumps({"messages": [{"role": "user", "content": text}], "category": "travel"}) + "\n" for text in PROMPTS
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_command_on_other_prompts(tmp_path, form):
    (tmp_path / form).write_text(FORMS[form]())
    arguments = ["--data.prompts", str(tmp_path / form), "--data.num_rounds", "3", "--trainer.logger", "false"]
    assert main([*QUICKSTART, str(tmp_path / "run"), *arguments]) == 0
    for round_index in range(3):
        export = tmp_path / f"run/exports/round_{round_index:03d}"
        model, tokenizer = AutoModelForCausalLM.from_pretrained(export), AutoTokenizer.from_pretrained(export)
        encoded = tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPTS[0]}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            answer = model.generate(**encoded, max_new_tokens=8, do_sample=False)
        assert answer.shape[1] > encoded["input_ids"].shape[1]
