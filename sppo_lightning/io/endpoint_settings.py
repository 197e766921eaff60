"""Where servers are, how long to wait for them, and in which environment variable their key lies."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sppo_lightning.errors import ConfigError
from sppo_lightning.io.secrets import KEY_VARIABLES, redact

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Checked at birth, so that nothing is asked with a setting that cannot work.

    Attributes:
        place: the configuration key of the engine or judge, such as "data.oracle", for errors.
        base_url: an address or several, each up to and with "/v1", without credentials.
        api_key_env: the NAME of the environment variable that holds the key; None sends none.
        max_concurrent: requests on their way at a time, over all servers.
        timeout_s: seconds after which one request counts as failed.
        patience_s: seconds to wait for servers of which none answers.

    Raises:
        ConfigError: names the key. Never with a secret in it.
    """

    place: str
    base_url: str | Sequence[str]
    api_key_env: str | None
    max_concurrent: int
    timeout_s: float
    patience_s: float

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError(f"{self.key_of('base_url')} is empty; give an address such as http://127.0.0.1:8000/v1")
        for url in self.urls:
            self._check_address(url)
        if len(set(self.urls)) < len(self.urls):
            raise ConfigError(f"{self.key_of('base_url')} names an address twice: {', '.join(self.urls)}")
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            # What stands here may be the key itself, so it is not repeated.
            raise ConfigError(
                f"{self.key_of('api_key_env')} must be the name of an environment variable, such as JUDGE_API_KEY, and "
                f"what it holds is not one. If it is the key itself: put it into a variable, and give that one's name"
            )
        if self.api_key_env is not None:
            KEY_VARIABLES.add(self.api_key_env)
        for name in ("max_concurrent", "timeout_s", "patience_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{self.key_of(name)} must be more than 0, got {getattr(self, name)}")

    @property
    def urls(self) -> list[str]:
        """The addresses, without a slash at the end."""
        return [url.rstrip("/") for url in ([self.base_url] if isinstance(self.base_url, str) else self.base_url)]

    def key_of(self, name: str) -> str:
        """The configuration key of a setting."""
        return f"{self.place}.{name}"

    def key(self) -> str | None:
        """The API key, read when it is needed and kept nowhere.

        Raises:
            ConfigError: the variable is not set, or holds what cannot be a key.
        """
        if self.api_key_env is None:
            return None
        key = self.key_if_set()
        if not key:
            raise ConfigError(
                f"{self.key_of('api_key_env')}: the environment variable {self.api_key_env} is not set; put the API "
                f"key into it: export {self.api_key_env}=..."
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ConfigError(
                f"{self.key_of('api_key_env')}: what the environment variable {self.api_key_env} holds cannot be an "
                f"API key: it has spaces or unusual characters in it"
            )
        return key

    def key_if_set(self) -> str:
        """What the variable of the key holds, to leave it out of a text; empty where there is none."""
        return os.environ.get(self.api_key_env or "", "").strip()

    def _check_address(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(
                f"{self.key_of('base_url')}: {redact(url.split('?')[0])} must hold neither credentials nor a query; "
                f"put the API key into an environment variable, and its name into {self.key_of('api_key_env')}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"{self.key_of('base_url')}: {redact(url)!r} is not an address; it looks like http://127.0.0.1:8000/v1"
            )
