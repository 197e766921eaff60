"""Seeds as pure functions of what they are for, so that sharding, resuming and reordering change nothing."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and its place: `derive_seed(run_seed, "play", round, prompt)`."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
