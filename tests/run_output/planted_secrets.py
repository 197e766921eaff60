"""Secrets that must leave no trace in what a run writes, and settings that must."""

# 20 secrets: under telling names at any depth, and by their shape under names that tell nothing.
SECRETS = {
    "api_key": "PLANTED-01",
    "apiKey": "PLANTED-02",
    "hf_token": "PLANTED-03",
    "token": "PLANTED-04",
    "password": "PLANTED-05",
    "db_password": "PLANTED-06",
    "client_secret": "PLANTED-07",
    "aws_secret_access_key": "PLANTED-08",
    "private_key": "PLANTED-09",
    "openai_key": "PLANTED-10",
    "passphrase": "PLANTED-11",
    "credentials": {"user": "PLANTED-12", "more": ["PLANTED-13"]},
    "headers": [{"Authorization": "PLANTED-14"}],
    "api_keys": ["PLANTED-15"],
    "endpoint": "https://me:PLANTED-16@judge.example.org/v1",
    "url": "https://judge.example.org/v1?n=5&access_token=PLANTED-17",
    "header": "Bearer PLANTED-18",
    "words": "login with hf_PLANTED-19abcdefghijkl please",
    "args": ["sk-PLANTED-20abcdefghijklmn"],
}
# 10 settings that only look like one.
LOOK_ALIKES = {
    "max_tokens": 512,
    "batch_tokens": 65536,
    "use_cls_token": True,
    "pad_token_id": 3,
    "pad_token": "<pad>",
    "stop_tokens": ["<end>"],
    "tokenizer": "fast",
    "prompt_key": "question",
    "api_key_env": "JUDGE_API_KEY",
    "secretary": "Miss Lemon",
}
JUDGE = """
from typing import Any
from sppo_lightning.oracles import StyleGame

class Judge(StyleGame):
    def __init__(self, api_key: str, options: dict[str, Any]):
        super().__init__()
        assert api_key == "PLANTED-00" and options["token"] == "PLANTED-04"
"""
