"""Asks OpenAI-compatible servers: load shared, failures waited out, keys out of sight.

Engines and judges say what to ask; this file knows who is free, who is down, which failures pass, and when to give up.
"""

from __future__ import annotations

import asyncio
import random
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, TypeVar

from sppo_lightning.errors import ConfigError, SPPOError
from sppo_lightning.io.endpoint_failures import Failure, Kind, MalformedError, failure_of
from sppo_lightning.io.endpoint_settings import EndpointSettings
from sppo_lightning.io.secrets import MASK, redact

if TYPE_CHECKING:
    from openai import AsyncOpenAI

__all__ = ["Answer", "EndpointError", "EndpointSettings", "Endpoints", "MalformedError", "Refused"]

_TRIES = 5
"""How often one request may fail in a way that may be its own fault: a time-out, an error 500, a malformed answer."""

_ODD_IN_A_ROW = 3
"""After so many such failures without an answer in between, a server rests while others work."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_POLL_S = 0.05
_GLANCE_S = 15.0

Result = TypeVar("Result")


class EndpointError(SPPOError, RuntimeError):
    """Servers that cannot be asked now, or refuse everything; engines and judges put their own name to it.

    Attributes:
        answers: [N] what the calls got before, None where nothing; empty where none was made.
    """

    answers: Sequence[Answer | Refused | None] = ()


@dataclass(frozen=True)
class Answer:
    """What a call returned, and the address of the server that answered."""

    value: Any
    url: str


@dataclass(frozen=True)
class Refused:
    """A request that no server will answer, while it answers others: too long, against its rules."""

    reason: str


Call = Callable[["AsyncOpenAI"], Awaitable[Any]]
"""One request: given a client, an awaitable answer. Raises `MalformedError` for an answer that is none."""


@dataclass
class _Server:
    url: str
    client: AsyncOpenAI
    in_flight: int = 0
    failures: int = 0
    odd_in_a_row: int = 0
    failed_at: float = 0.0
    rests_until: float = 0.0

    @property
    def is_free(self) -> bool:
        """After a failure one request at a time tries whether the server is back."""
        return self.failures == 0 or (self.in_flight == 0 and time.monotonic() >= self.rests_until)


class Endpoints:
    """Servers of one model.

    Args:
        settings: where they are and how long to wait for them.

    Attributes:
        troubles: how often which failure was met and waited out; for people and metrics.
        answered_as: the name by which the model answers, for who wants to notice another; None before it does.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings
        self.troubles: Counter[str] = Counter()
        self.answered_as: str | None = None
        self._num_answers = 0
        self._last_answer = 0.0

    def ask(self, calls: Sequence[Call], only: str | None = None) -> list[Answer | Refused]:
        """Makes all calls, as many at a time as the settings allow, each on the server with the least to do.

        What passes is waited out: 429, 5xx, time-outs, lost and refused connections, malformed answers. A server that
        is down rests while others work; requests that were on their way are sent again.

        Args:
            calls: N requests.
            only: the address of the one server to ask. Default: any.

        Returns:
            [N] answers in the order of the calls, or why that one request was refused.

        Raises:
            EndpointError: nobody answered for `patience_s`, or every request is refused, whatever it is: a wrong key,
                a wrong address, an unknown model. It holds the answers that came before.
            ConfigError: the variable that should hold the key does not.
        """
        if not calls:
            return []
        key = self.settings.key()
        answers = _run(self._ask(calls, [only] if only else self.settings.urls, key))
        refusals = [answer.reason for answer in answers if isinstance(answer, Refused)]
        if len(refusals) == len(answers) and not self._num_answers:
            error = EndpointError(f"{self.settings.place}: every request is refused, the first with: {refusals[0]}")
            error.answers = answers
            raise error
        return answers

    def cards(self, url: str) -> list[dict[str, Any]] | None:
        """What a server says it serves, each with its `id`. Asked once, without waiting for it.

        Returns:
            One entry for each model; None where the server cannot be reached now or keeps no such list.

        Raises:
            ConfigError: the key is missing or refused.
        """
        openai, key = _openai(), self.settings.key()

        async def ask() -> Any:
            async with openai.AsyncOpenAI(
                base_url=url, api_key=key or "none", timeout=_GLANCE_S, max_retries=0
            ) as client:
                return await client.get("/models", cast_to=object)

        try:
            listed = _run(ask())
        except (openai.OpenAIError, JSONDecodeError, UnicodeDecodeError) as error:
            failure = failure_of(error)
            if failure.name == "refused key":
                reason = self.clean(failure.reason) + self._key_hint(failure)
                raise ConfigError(f"{self.settings.place}: {url} answered: {reason}") from None
            return None
        found = listed.get("data") if isinstance(listed, dict) else None
        return [card for card in found if isinstance(card, dict)] if isinstance(found, list) else None

    def check_model(self, url: str, model: str) -> None:
        """Refuses a model that a server does not list; says so where the server cannot be asked.

        Raises:
            ConfigError: it lists others, or refuses the key.
        """
        cards = self.cards(url)
        if cards is None:
            warnings.warn(
                f"{self.settings.place}: {url} does not say now which models it has; it is asked again when it is "
                "needed",
                stacklevel=2,
            )
        elif model not in (names := [str(card.get("id")) for card in cards]):
            has = self.clean(", ".join(names[:5])) or "none"
            raise ConfigError(f"{self.settings.key_of('model')}: {url} has no model {model!r}, it has {has}")

    def clean(self, text: str) -> str:
        """What a server said, as one line for people: without the key, whoever quoted it, and not too long."""
        line, key = " ".join(text.split()), self.settings.key_if_set()
        return redact(line.replace(key, MASK) if key else line)[:400]

    @property
    def _connect_s(self) -> float:
        return min(self.settings.timeout_s, _GLANCE_S)

    async def _ask(self, calls: Sequence[Call], urls: Sequence[str], key: str | None) -> list[Answer | Refused]:
        openai = _openai()
        async with AsyncExitStack() as stack:
            servers = []
            for url in urls:
                timeout = openai.Timeout(self.settings.timeout_s, connect=self._connect_s)
                client = openai.AsyncOpenAI(base_url=url, api_key=key or "none", timeout=timeout, max_retries=0)
                servers.append(_Server(url, await stack.enter_async_context(client)))
            slots = asyncio.Semaphore(self.settings.max_concurrent)
            self._last_answer = time.monotonic()
            tasks = [asyncio.create_task(self._answer(call, servers, slots)) for call in calls]
            try:
                return await asyncio.gather(*tasks)
            except EndpointError as error:
                done = [task.done() and not task.cancelled() and task.exception() is None for task in tasks]
                error.answers = [task.result() if ok else None for task, ok in zip(tasks, done, strict=True)]
                raise
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, call: Call, servers: Sequence[_Server], slots: asyncio.Semaphore) -> Answer | Refused:
        openai = _openai()
        tries = 0
        failed_on: set[str] = set()  # addresses; another server is tried first
        async with slots:
            began = time.monotonic()
            while True:
                server = await _free_one(servers, failed_on)
                sent = time.monotonic()
                server.in_flight += 1
                try:
                    # The client's own limit begins anew with every byte; connecting has a limit of its own.
                    value = await asyncio.wait_for(call(server.client), self.settings.timeout_s + self._connect_s)
                except (openai.OpenAIError, MalformedError, JSONDecodeError, UnicodeDecodeError, TimeoutError) as error:
                    failure = failure_of(error)
                else:
                    if sent >= server.failed_at:
                        server.failures = server.odd_in_a_row = 0
                    self._num_answers += 1
                    self._last_answer = time.monotonic()
                    return Answer(value, server.url)
                finally:
                    server.in_flight -= 1
                reason = self.clean(failure.reason)
                if failure.kind is Kind.REFUSED:
                    return Refused(reason)
                if failure.kind is Kind.FATAL:
                    hint = self._key_hint(failure)
                    raise EndpointError(f"{self.settings.place}: {server.url} answered: {reason}{hint}")
                self.troubles[failure.name] += 1
                if failure.kind is Kind.BUSY:
                    self._rest(server, failure, reason, sent)
                    continue
                tries += 1
                failed_on.add(server.url)
                server.odd_in_a_row += 1
                if len(servers) > 1 and server.odd_in_a_row >= _ODD_IN_A_ROW:
                    self._rest(server, failure, reason, sent)
                if tries == _TRIES and self._last_answer > began:
                    return Refused(f"{reason} ({tries} times)")
                if tries == _TRIES:
                    raise EndpointError(
                        f"{self.settings.place}: {server.url} failed {tries} times on one request, and answered no "
                        f"other meanwhile: {reason}"
                    )
                await asyncio.sleep(_pause_s(tries))

    def _rest(self, server: _Server, failure: Failure, reason: str, sent: float) -> None:
        """Leaves a server alone for a while, twice as long after each further failure, or as long as it asks for."""
        now, patience = time.monotonic(), self.settings.patience_s
        if failure.retry_after_s > patience or now - self._last_answer > patience:
            waited = f"it asks to wait {failure.retry_after_s:g} s" if failure.retry_after_s > patience else "no answer"
            raise EndpointError(
                f"{self.settings.place}: gave up on {server.url}, {waited}, and {self.settings.key_of('patience_s')} "
                f"is {patience:g} s; the last failure: {reason}. The same command goes on when the server is back"
            )
        if sent < server.failed_at:
            return  # a part of the failure that is being waited out
        if not server.failures:
            warnings.warn(
                f"{self.settings.place}: {server.url}: {reason}; trying again for up to {patience:g} s", stacklevel=2
            )
        server.failures += 1
        server.failed_at = now
        server.rests_until = now + max(_pause_s(server.failures), failure.retry_after_s)

    def _key_hint(self, failure: Failure) -> str:
        if failure.name != "refused key":
            return ""
        if self.settings.api_key_env is None:
            return f". No key was sent; name the environment variable with one: {self.settings.key_of('api_key_env')}"
        return f". The key is the one in the environment variable {self.settings.api_key_env}"


_jitter = random.Random()  # its own: the global random state belongs to the run


def _pause_s(failures: int) -> float:
    return min(_FIRST_PAUSE_S * 2 ** (failures - 1), _LONGEST_PAUSE_S) * _jitter.uniform(0.75, 1.0)


async def _free_one(servers: Sequence[_Server], failed_on: Container[str]) -> _Server:
    while True:
        free = [server for server in servers if server.is_free]
        if free:
            return min(free, key=lambda server: (server.url in failed_on, server.in_flight))
        await asyncio.sleep(_POLL_S)


def _openai() -> Any:
    try:
        import openai
    except ModuleNotFoundError as error:
        raise ConfigError(
            "asking a server needs the package openai: pip install 'sppo-lightning[judge]', or openai alone"
        ) from error
    return openai


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine to its end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
