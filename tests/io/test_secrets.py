"""Which names and shapes are secrets, and which only look like it."""

import pytest

from sppo_lightning.io.secrets import MASK, is_secret_name, mask_secrets, redact

SECRET_NAMES = [
    "api_key",
    "apiKey",
    "API-KEY",
    "openai_key",
    "OPENAI_API_KEY",
    "aws_secret_access_key",
    "private_key",
    "encryption_key",
    "token",
    "hf_token",
    "HF_TOKEN",
    "access_token",
    "auth_token",
    "id_token",
    "bearerToken",
    "password",
    "db_password",
    "passwd",
    "PGPASSWORD",
    "dbpasswd",
    "passphrase",
    "client_secret",
    "secret",
    "secrets",
    "credentials",
    "Authorization",
    "api_keys",
    "access_tokens",
    "aws_secret_key_id",
]
OTHER_NAMES = [
    "max_tokens",
    "max_new_tokens",
    "batch_tokens",
    "max_pack_tokens",
    "num_tokens",
    "stop_tokens",
    "use_cls_token",
    "num_memory_tokens",
    "pad_token",
    "eos_token",
    "bos_token",
    "mask_token",
    "pad_token_id",
    "image_token",
    "cost_per_token",
    "tokenizer",
    "tokenize",
    "key",
    "keys",
    "prompt_key",
    "sort_key",
    "cache_key",
    "monitor_key",
    "num_key_value_heads",
    "api_key_env",
    "password_file",
    "keyboard",
    "secretary",
    "monkey",
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_is_known_by_its_name(name):
    assert is_secret_name(name)
    assert mask_secrets({name: "s3cret"}) == {name: MASK}
    assert mask_secrets({name: 12345}) == {name: MASK}


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_look_alike_is_kept(name):
    assert not is_secret_name(name)
    assert mask_secrets({name: "as it is"}) == {name: "as it is"}
    assert mask_secrets({name: 12345}) == {name: 12345}


def test_a_secret_name_covers_everything_below_it_and_nothing_beside_it():
    settings = {
        "oracle": {"init_args": {"api_key": "a", "model": "b", "headers": [{"Authorization": ["c", {"d": "e"}]}]}},
        "credentials": {"user": "f", "depth": [{"g": 1}]},
    }
    assert mask_secrets(settings) == {
        "oracle": {"init_args": {"api_key": MASK, "model": "b", "headers": [{"Authorization": [MASK, {"d": MASK}]}]}},
        "credentials": {"user": MASK, "depth": [{"g": MASK}]},
    }
    assert settings["oracle"]["init_args"]["api_key"] == "a"


@pytest.mark.parametrize("value", [None, True, False, "", "$OPENAI_API_KEY", "${OPENAI_API_KEY}", "env:OPENAI_API_KEY"])
def test_what_is_no_secret_stands_under_a_secret_name(value):
    assert mask_secrets({"api_key": value}) == {"api_key": value}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:s3cret@host:5000/x", "https://***@host:5000/x"),
        ("http://s3cret@host/x", "http://***@host/x"),
        ("postgresql://me:a/b@c@host/db", "postgresql://***@host/db"),
        ("https://host/v1?api_key=s3cret&max_tokens=7", "https://host/v1?api_key=***&max_tokens=7"),
        ("https://host/v1?n=5&access_token=s3cret#top", "https://host/v1?n=5&access_token=***#top"),
        ("https://host/v1?key=AIzaS3cret", "https://host/v1?key=***"),
        ("Bearer s3cret.s3cret-s3cret=", "Bearer ***"),
        ("before hf_AbCdEfGhIjKlMnOpQrSt after", "before *** after"),
        ("sk-proj-AbCdEfGhIjKlMnOp1234", "***"),
        ("ghp_AbCdEfGhIjKlMnOp1234", "***"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "***"),
    ],
)
def test_a_secret_is_known_by_its_shape(text, shown):
    assert redact(text) == shown
    assert mask_secrets({"anything": [text]}) == {"anything": [shown]}


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/me@work/runs/mlflow.db",
        "https://example.org/@me and me@example.org",
        "https://host/v1?max_tokens=7&pad_token=x",
        "the bearer of this letter",
        "task-specific-instructions-for-the-model",
        "hf_transfer",
        "package:quickstart/policy",
    ],
)
def test_other_text_is_kept(text):
    assert redact(text) == text
