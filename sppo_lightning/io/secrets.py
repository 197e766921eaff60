"""What must never be written down: values under keys that name a secret, and credentials inside any text.

Knows names and shapes only. It cannot see that "s3cret" under a key such as `greeting` is somebody's password.
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
"""Stands in the place of what was there."""

KEY_VARIABLES: set[str] = set()
"""The environment variables that settings of this process have named as holding a key, whatever they are called."""

# api_key, apiKey, API-KEY -> [api, key]
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ALWAYS_SECRET = re.compile(r"apikey|authorization|credentials?|passphrase|[a-z]*passwords?|[a-z]*passwd|pwd|secrets?")
# A name that ends so says where to find a secret: `api_key_env`, `password_file`.
_PLACES = re.compile(r"env|variable|var|file|path|folder|dir")
# `pad_token` is text of a tokenizer, `prompt_key` a column of a file; `hf_token` and `openai_key` are neither.
_TEXT_TOKENS = re.compile(
    r"audio|begin|bo[is]|cls|end|eo[is]|first|image|last|mask|new|next|pad|per|sep|special|start|stop|unk|video"
)
_DATA_KEYS = re.compile(
    r"|answer|batch|cache|chosen|column|content|dict|group|id|image|index|input|instruction|label|messages?|metric|monitor"
    r"|name|output|partition|primary|prompt|query|reference|rejected|response|role|score|sort|state|target|text|value|weight"
)
_KEYRINGS = re.compile(r"access|api|auth|bearer|private|secret")
_REFERENCE = re.compile(r"\$\{?\w+\}?|\$\{oc\.env:\w+\}|env:\w+")

# Between "://" and the last "@" of a word; without a ":" it may not hold a "/", which begins a path.
_USER_INFO = re.compile(r"(?<=://)(?:[^\s\"'<>/:@]*:[^\s\"'<>]*|[^\s\"'<>/]+)@")
_QUERY = re.compile(r"(?<=[?&])([\w.-]+)=([^\s&#\"'<>]+)")
_SHAPES = re.compile(
    r"(?<=\bBearer )[\w.~+/-]{8,}=*"  # an HTTP header
    r"|\b(?:hf_|sk-|gh[opsur]_|github_pat_|glpat-|xox[abprs]-)[\w-]{16,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"  # a JSON web token
)


def is_secret_name(name: str) -> bool:
    """Whether a key of this name holds a secret: `api_key`, `hf_token`, `password`; not `max_tokens` or `pad_token`."""
    words = [word.lower() for word in _WORDS.findall(name)]
    *_, before, last = ["", "", *words]
    if _PLACES.fullmatch(last):
        return False
    if any(_ALWAYS_SECRET.fullmatch(word) for word in words):
        return True
    if last == "token":
        return not _TEXT_TOKENS.fullmatch(before)
    if last == "key":
        return not _DATA_KEYS.fullmatch(before)  # which matches nothing at all, too: `key` alone
    return last in ("keys", "tokens") and bool(_KEYRINGS.fullmatch(before))


def redact(text: str) -> str:
    """Replaces the credentials inside a text by ***: a URI's user name and password or query, headers, known tokens."""

    def masked(match: re.Match[str]) -> str:
        # In an address a bare `key` is one to a door, not to a dictionary.
        return f"{match[1]}={MASK}" if match[1] == "key" or is_secret_name(match[1]) else match[0]

    return _SHAPES.sub(MASK, _QUERY.sub(masked, _USER_INFO.sub(f"{MASK}@", text)))


def mask_secrets(value: Any, name: str = "") -> Any:
    """Copies settings without the secrets in them.

    Args:
        value: dictionaries and lists, nested, of text, numbers, booleans and None.
        name: the key under which `value` stands.

    Returns:
        The same structure. Under a key for which `is_secret_name` holds, text and numbers are replaced, at any depth;
        a switch, nothing, or the name of an environment variable (`${NAME}`, `$NAME`, `env:NAME`) is kept. All other
        text has gone through `redact`.
    """
    return _mask(value, is_secret_name(name))


def _mask(value: Any, secret: bool) -> Any:
    if isinstance(value, dict):
        return {key: _mask(entry, secret or is_secret_name(str(key))) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(entry, secret) for entry in value]
    if value is None or isinstance(value, bool):
        return value
    if secret:
        return value if not str(value) or _REFERENCE.fullmatch(str(value)) else MASK
    return redact(value) if isinstance(value, str) else value
