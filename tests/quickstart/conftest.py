"""The packaged policy and prompts."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from sppo_lightning.types import Prompt


@pytest.fixture(scope="session")
def assets():
    return Path(str(files("sppo_lightning"))) / "assets" / "quickstart"


@pytest.fixture(scope="session")
def tokenizer(assets):
    return AutoTokenizer.from_pretrained(assets / "policy")


@pytest.fixture(scope="session")
def model(assets):
    return AutoModelForCausalLM.from_pretrained(assets / "policy").eval()


@pytest.fixture(scope="session")
def prompts(assets):
    rows = [json.loads(line) for line in (assets / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    return [Prompt(prompt_id=row["prompt_id"], messages=({"role": "user", "content": row["prompt"]},)) for row in rows]
