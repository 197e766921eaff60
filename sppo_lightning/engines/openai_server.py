"""Generation by OpenAI-compatible vLLM servers, on this machine or others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sppo_lightning.engines.base import Engine
from sppo_lightning.engines.checks import check_numbers
from sppo_lightning.engines.policy_server import PolicyServer, only_choice, run_command
from sppo_lightning.engines.sampling import sampling_config
from sppo_lightning.engines.terminators import finish_reason
from sppo_lightning.engines.vllm_support import policy_terminators, read_config
from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.io.chat import encode_prompt
from sppo_lightning.io.endpoints import (
    Answer,
    Call,
    EndpointError,
    Endpoints,
    EndpointSettings,
    MalformedError,
    Refused,
)
from sppo_lightning.types import Candidates, PolicyHandle, Prompt

_Key = tuple[int, int]
_Response = tuple[list[int], float]


@dataclass(frozen=True)
class _Opened:
    policy: PolicyHandle
    servers: dict[str, PolicyServer]
    terminators: list[int]


class OpenAIServer(Engine):
    """Samples with any number of vLLM servers that share the work and serve one run at a time.

    Token ids go in and come out, one request for each response, with its own seed. A server that is down is waited for;
    one that was restarted in the middle of a call is given the policy again, and what it answered is thrown away.

    `refresh` says how the servers get the policy of each round. `reload`: they read its folder in place, which needs
    VLLM_SERVER_DEV_MODE=1 in their environment and a file system that they share with this run. `command`: a command of
    yours sees to it, by a restart for example. `none`: they have it already, so only one policy can be asked.

    Args:
        base_url: a server's address up to and with "/v1", or several of the same model.
        model: the model's name at the servers; not set: the only one they have.
        api_key_env: the NAME of the environment variable that holds the API key; not set: no key is sent.
        refresh: how the servers get the policy: `reload`, `command` or `none`.
        command: with `refresh: command`, the words of a command; {folder} and {name} in them become the policy's. It
            returns when the servers are being restarted, and does nothing when they have that policy: every process of
            the run gives it.
        max_logp_gap: nats a token by which a server may differ from the policy in this process, in a short answer to a
            long question asked at each `open`; null does not compare.
        temperature: divides the logits; 1 samples from the policy itself, 0 takes the most likely token.
        top_p: keep the smallest set of most likely tokens with at least this probability; 1 keeps all.
        top_k: keep this many of the most likely tokens; 0 keeps all.
        max_new_tokens: tokens after which a response is cut off (finish reason "length").
        max_concurrent: requests on their way at a time, over all servers.
        timeout_s: seconds after which a request counts as failed; it is tried again.
        patience_s: seconds to wait for servers of which none answers, before the run stops; it can be resumed.

    Raises:
        ConfigError: a setting that cannot work.
    """

    reads_folder = True
    works_on = "elsewhere"

    def __init__(
        self,
        base_url: str | list[str] = "http://127.0.0.1:8000/v1",
        model: str | None = None,
        api_key_env: str | None = None,
        refresh: Literal["reload", "command", "none"] = "reload",
        command: list[str] | None = None,
        max_logp_gap: float | None = 0.1,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        max_new_tokens: int = 512,
        max_concurrent: int = 256,
        timeout_s: float = 600.0,
        patience_s: float = 600.0,
    ) -> None:
        if refresh not in ("reload", "command", "none"):
            raise ConfigError(f"data.engine.refresh must be reload, command or none; got {refresh!r}")
        if (refresh == "command") != bool(command):
            raise ConfigError("data.engine.command and data.engine.refresh: command go together; set both or neither")
        if max_logp_gap is not None and not max_logp_gap > 0:
            raise ConfigError(f"data.engine.max_logp_gap must be more than 0, or null; got {max_logp_gap}")
        self.sampling = sampling_config(
            temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens
        )
        self.base_url, self.model, self.api_key_env = base_url, model, api_key_env
        self.refresh, self.command, self.max_logp_gap = refresh, command, max_logp_gap
        self.max_concurrent, self.timeout_s, self.patience_s = max_concurrent, timeout_s, patience_s
        self._endpoints = Endpoints(
            EndpointSettings(
                place="data.engine",
                base_url=base_url,
                api_key_env=api_key_env,
                max_concurrent=max_concurrent,
                timeout_s=timeout_s,
                patience_s=patience_s,
            )
        )
        self._opened: _Opened | None = None
        self._has_warned = False
        self._served: str | None = None  # the only policy there is, with refresh none

    def check(self, source: str) -> None:
        """Looks whether the servers that are there have the model and can be given a policy; see `Engine`.

        One that is not there yet is looked at by `open`, which waits for it.
        """
        try:
            for url in self._endpoints.settings.urls:
                if self._endpoints.cards(url) is not None:
                    server = PolicyServer(self._endpoints, url, self.model)
                    if self.refresh == "reload":
                        server.check_reloads()
        except EndpointError as error:
            raise EngineError(f"OpenAIServer: {error}") from None  # what lies behind it may quote the key

    def open(self, policy: PolicyHandle) -> None:
        """Gives the servers the policy, and compares what they answer with it.

        Raises:
            ConfigError: a server cannot be given a policy.
            EngineError: a server did not take it, or answers with other weights, or is gone for good.
        """
        source = policy.folder
        config = read_config(source)
        try:
            if self.refresh == "command":
                assert self.command is not None
                run_command(self.command, policy, self._endpoints.clean)
            servers = self._servers()
            for server in servers:
                self._give(policy, server)
        except EndpointError as error:
            raise EngineError(f"OpenAIServer: {error}") from None
        self._opened = _Opened(
            policy=policy,
            servers={server.url: server for server in servers},
            terminators=policy_terminators(source, config, policy.tokenizer),
        )

    def close(self) -> None:
        """Lets go of the policy; the servers keep it until they are given another."""
        self._opened = None

    def generate(self, prompts: Sequence[Prompt], seeds_BK: Sequence[Sequence[int]]) -> Candidates:
        """Samples one response for each seed.

        Args:
            prompts: B prompts, in any order.
            seeds_BK: [B][K] 63-bit seeds; K may differ between prompts.

        Returns:
            K responses for each prompt, with the servers' log-probabilities at temperature 1.

        Raises:
            EngineError: the engine is not open, a prompt leaves no room for `max_new_tokens`, the servers are gone for
                good, or an answer is not the policy's.
        """
        if self._opened is None:
            raise EngineError("The OpenAIServer engine is not open: call open(policy) before generate(...)")
        opened, tokenizer = self._opened, self._opened.policy.tokenizer
        prompt_ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
        self._check_room(opened, prompts, prompt_ids)
        keys = [(b, k) for b, seeds in enumerate(seeds_BK) for k in range(len(seeds))]
        try:
            responses = self._responses(opened, {key: self._call(opened, prompt_ids, seeds_BK, key) for key in keys})
        except EndpointError as error:
            raise EngineError(f"OpenAIServer: {error}") from None
        check_numbers(opened.policy.name, prompts, ((b, logp) for (b, _), (_, logp) in responses.items()))
        responses_BK = [[responses[b, k] for k in range(len(seeds))] for b, seeds in enumerate(seeds_BK)]
        token_ids_BK = [[token_ids for token_ids, _ in responses_K] for responses_K in responses_BK]
        return Candidates(
            prompts=prompts,
            prompt_token_ids=prompt_ids,
            token_ids=token_ids_BK,
            texts=[tokenizer.batch_decode(token_ids_K, skip_special_tokens=True) for token_ids_K in token_ids_BK],
            finish_reasons=[[finish_reason(ids, opened.terminators) for ids in ids_K] for ids_K in token_ids_BK],
            sampler_logps=[[logp for _, logp in responses_K] for responses_K in responses_BK],
            policy=opened.policy.name,
            sampling=self.sampling,
        )

    # --- the servers -------------------------------------------------------------------------------------------------

    def _servers(self) -> list[PolicyServer]:
        """The servers as they are now."""
        return [PolicyServer(self._endpoints, url, self.model) for url in self._endpoints.settings.urls]

    def _give(self, policy: PolicyHandle, server: PolicyServer) -> None:
        if self.refresh == "reload":
            server.check_reloads()
            server.reload(policy.folder)
        elif self.refresh == "none":
            if self._served not in (None, policy.folder):
                raise EngineError(
                    "OpenAIServer: with data.engine.refresh: none the servers keep the policy they have, and that is "
                    f"{self._served}; {policy.folder} is another one. Set data.engine.refresh to reload or command"
                )
            self._served = policy.folder
        server.remember_start()
        if not server.tells_start:
            self._without_start(server)
        if self.max_logp_gap is None:
            return
        gap = server.gap(policy)
        if not gap <= self.max_logp_gap:  # NaN is not
            raise EngineError(
                f"OpenAIServer: {server.url} ({server.model}) answers with other weights than policy {policy.name} "
                f"({policy.folder}): log-probabilities differ by {gap:.3g} nats a token, and data.engine.max_logp_gap "
                f"is {self.max_logp_gap:g}. Is it a server of this run, started with this policy's architecture and "
                "--dtype, and with vLLM's own --logprobs-mode? vLLM on CPU keeps the old output layer of a policy with "
                "tied embeddings when weights are reloaded: restart it instead (data.engine.refresh: command)"
            )

    def _without_start(self, server: PolicyServer) -> None:
        """Says, or refuses, that restarts of a server can only be told from what it answers."""
        where = f"data.engine OpenAIServer: /metrics of {server.url} does not say when the server was started"
        if self.max_logp_gap is None and self.refresh != "none":
            raise ConfigError(
                f"{where}, and data.engine.max_logp_gap: null compares nothing: after a restart it would answer with "
                "the weights of its command line. Set data.engine.max_logp_gap"
            )
        if not self._has_warned:
            self._has_warned = True
            instead = "is not noticed" if self.max_logp_gap is None else "is looked for by log-probabilities each time"
            warnings.warn(f"{where} (process_start_time_seconds); whether it was restarted {instead}", stacklevel=2)

    # --- the responses -----------------------------------------------------------------------------------------------

    def _responses(self, opened: _Opened, calls: dict[_Key, Call]) -> dict[_Key, _Response]:
        """Asks, and asks again what a server answered that was restarted meanwhile."""
        responses: dict[_Key, _Response] = {}
        while missing := [key for key in calls if key not in responses]:
            answers = self._endpoints.ask([calls[key] for key in missing])
            # One that did not answer is looked at when it does: nobody waits for it while others do the work.
            answered = {answer.url for answer in answers if isinstance(answer, Answer)}
            strangers = {url for url in answered if self._is_stranger(opened, opened.servers[url])}
            for key, answer in zip(missing, answers, strict=True):
                if isinstance(answer, Refused):
                    raise EngineError(f"OpenAIServer: a request was refused: {answer.reason}")
                if answer.url not in strangers:
                    responses[key] = answer.value
        return responses

    def _is_stranger(self, opened: _Opened, server: PolicyServer) -> bool:
        """Whether a server's answers may be another policy's; if it is there and has another one, it is given this."""
        if not server.is_there():
            return True  # nobody knows any more whose they were
        if server.tells_start:
            restarted = server.has_restarted()
        else:
            restarted = self.max_logp_gap is not None and not server.gap(opened.policy) <= self.max_logp_gap
        if restarted:
            self._give(opened.policy, server)
        return restarted

    def _call(
        self, opened: _Opened, prompt_ids: Sequence[Sequence[int]], seeds_BK: Sequence[Sequence[int]], key: _Key
    ) -> Call:
        b, k = key
        server = next(iter(opened.servers.values()))
        # Every field that a server's generation_config.json could set otherwise.
        sampling = {
            "top_k": self.sampling.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": opened.terminators,
            "return_token_ids": True,
        }

        async def call(client: Any) -> _Response:
            completion = await client.completions.create(
                model=server.model,
                prompt=list(prompt_ids[b]),
                seed=seeds_BK[b][k],
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                max_tokens=self.sampling.max_new_tokens,
                presence_penalty=0.0,
                frequency_penalty=0.0,
                logprobs=0,
                extra_body=sampling,
            )
            choice = only_choice(completion, prompt_ids[b])
            token_ids = list(choice.token_ids)
            if token_ids[-1] not in opened.terminators and len(token_ids) < self.sampling.max_new_tokens:
                raise MalformedError(
                    f"a response of {len(token_ids)} tokens that ends neither in one of the policy's terminators nor "
                    f"at max_new_tokens (finish reason {choice.finish_reason!r})"
                )
            return token_ids, math.fsum(choice.logprobs.token_logprobs)

        return call

    def _check_room(self, opened: _Opened, prompts: Sequence[Prompt], prompt_ids: Sequence[Sequence[int]]) -> None:
        """Refuses prompts that leave no room for `max_new_tokens` at a server."""
        if not prompts:
            return
        longest = max(range(len(prompts)), key=lambda b: len(prompt_ids[b]))
        for server in opened.servers.values():
            if server.max_model_len and len(prompt_ids[longest]) + self.sampling.max_new_tokens > server.max_model_len:
                raise EngineError(
                    f"Prompt {prompts[longest].prompt_id} has {len(prompt_ids[longest])} tokens; with "
                    f"data.engine.max_new_tokens={self.sampling.max_new_tokens} that is more than the "
                    f"{server.max_model_len} tokens that {server.url} takes. Start it with a longer --max-model-len, "
                    "lower data.engine.max_new_tokens, or remove such prompts from data.prompts"
                )
