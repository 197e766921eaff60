"""One vLLM server that is to answer with a policy: gives it the weights, and finds out whether it has them.

Uses what vLLM's OpenAI-compatible server offers beside the API: `/collective_rpc` and `/reset_prefix_cache` under
VLLM_SERVER_DEV_MODE=1, `/metrics` always.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sppo_lightning.errors import ConfigError, EngineError
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.endpoints import Answer, Endpoints, MalformedError
from sppo_lightning.types import PolicyHandle

_STARTED = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)
_PROBE_TOKENS = 16
# Long: a server with a stale prefix cache answers short prompts with the new weights and long ones with the old.
_PROBE = " ".join(
    ["A long question, the same after every round, shows whether a server has the weights it should."] * 24
)


class PolicyServer:
    """One address of an `Endpoints`, whose model is looked up.

    Args:
        endpoints: how to ask.
        url: the address.
        model: the model's name at the server; None: the only one it has.

    Attributes:
        max_model_len: the longest sequence it takes; None where it does not say.

    Raises:
        ConfigError: it has not the model.
        EndpointError: it does not answer.
    """

    def __init__(self, endpoints: Endpoints, url: str, model: str | None) -> None:
        self.url = url
        self._endpoints = endpoints
        self._root = url.removesuffix("/v1")
        self._started: float | None = None

        async def ask(client: Any) -> dict[str, Any]:
            listed = await client.get("/models", cast_to=object)
            if not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
                raise MalformedError("not a list of models")
            return {str(card.get("id")): card for card in listed["data"]}

        cards = self._value(ask)
        name = model or (next(iter(cards)) if len(cards) == 1 else None)
        if name is None or name not in cards:
            raise ConfigError(
                f"data.engine.model is {model!r}, and {url} serves {', '.join(cards) or 'nothing'}; give the name of "
                "one of these"
            )
        self.model = name
        self.max_model_len: int | None = cards[name].get("max_model_len")
        self._started_with = str(cards[name].get("root") or "")

    def check_reloads(self) -> None:
        """Refuses a server that cannot take weights.

        Raises:
            ConfigError: it runs without VLLM_SERVER_DEV_MODE=1.
        """
        import openai

        async def ask(client: Any) -> bool:
            try:  # without a method it has nothing to do, and says so
                await client.post(f"{self._root}/collective_rpc", cast_to=object, body={})
            except openai.NotFoundError:
                return False
            except openai.BadRequestError:
                pass
            return True

        if not self._value(ask):
            raise ConfigError(
                f"data.engine OpenAIServer: {self.url} cannot take a policy's weights: it has no /collective_rpc. "
                "Start vLLM with VLLM_SERVER_DEV_MODE=1 in its environment (on a network that others cannot reach), or "
                "set data.engine.refresh to command or none"
            )

    def reload(self, folder: str) -> None:
        """Has the server read the weights in a folder, and forget what it computed with others.

        Raises:
            EngineError: it could not. Weights that cannot fit are not sent: vLLM does not recover from them.
        """
        import openai

        path = Path(resolve(folder))
        source = str(path.resolve()) if path.is_dir() else folder
        misfit = _misfit(path, Path(self._started_with))
        if misfit:
            raise EngineError(
                f"data.engine OpenAIServer: {self.url} was started with {self._started_with}, and the weights in "
                f"{source} do not fit: {misfit}. Start it with a policy of this run's architecture"
            )

        async def ask(client: Any) -> str | None:
            body = {"method": "reload_weights", "kwargs": {"weights_path": source}}
            try:
                await client.post(f"{self._root}/collective_rpc", cast_to=object, body=body)
                # Also of requests on their way: another process of this run may have asked already.
                reset = f"{self._root}/reset_prefix_cache?reset_running_requests=true"
                answer = await client.post(reset, cast_to=object)
            except (openai.BadRequestError, openai.NotFoundError, openai.InternalServerError) as error:
                return error.message
            return None if answer == {"success": True} else f"its prefix cache was not reset: {answer}"

        failed = self._value(ask)
        if failed:
            raise EngineError(
                f"data.engine OpenAIServer: {self.url} did not take the weights in {source}: "
                f"{self._endpoints.clean(failed)}. The folder must lie under the same path on the server's machine (a "
                "shared file system), and hold a policy of the architecture that the server was started with. Restart "
                "the server: it may be left with half of the weights"
            )

    def remember_start(self) -> None:
        """Notes since when its process lives."""
        self._started = self._start_time()

    @property
    def tells_start(self) -> bool:
        """Whether it says since when its process lives, as of `remember_start`."""
        return self._started is not None

    def is_there(self) -> bool:
        """Whether it answers now; does not wait for it."""
        return self._endpoints.cards(self.url) is not None

    def has_restarted(self) -> bool:
        """Whether it is another process than at `remember_start`: with the weights of its command line, then."""
        return self._start_time() != self._started

    def gap(self, policy: PolicyHandle) -> float:
        """Mean |log p(token) at the server - log p(token) under the policy|, nats, over a short greedy answer."""
        model: Any = policy.model
        ids = policy.tokenizer(_PROBE)["input_ids"]
        limits = [self.max_model_len, getattr(model.config.get_text_config(), "max_position_embeddings", None)]
        room = min(limit - _PROBE_TOKENS for limit in limits if limit) if any(limits) else len(ids)
        prompt_ids = ids[: max(1, room)]

        async def ask(client: Any) -> tuple[list[int], list[float]]:
            completion = await client.completions.create(
                model=self.model,
                prompt=prompt_ids,
                max_tokens=_PROBE_TOKENS,
                temperature=0,
                logprobs=0,
                extra_body={"return_token_ids": True, "ignore_eos": True, "repetition_penalty": 1.0},
            )
            choice = only_choice(completion, prompt_ids)
            return choice.token_ids, choice.logprobs.token_logprobs

        token_ids, theirs = self._value(ask)
        return (_token_logps(model, prompt_ids, token_ids) - torch.tensor(theirs)).abs().mean().item()

    def _start_time(self) -> float | None:
        async def ask(client: Any) -> str:
            return str(await client.get(f"{self._root}/metrics", cast_to=str))

        found = _STARTED.search(self._value(ask))
        return float(found[1]) if found else None

    def _value(self, ask: Any) -> Any:
        (answer,) = self._endpoints.ask([ask], only=self.url)
        if not isinstance(answer, Answer):
            raise EngineError(f"data.engine OpenAIServer: {self.url} refused: {answer.reason}")
        return answer.value


def only_choice(completion: Any, prompt_ids: Sequence[int]) -> Any:
    """The one choice of a completion, with token ids.

    Raises:
        EngineError: the server does not give token ids, or saw other ones than were sent.
        MalformedError: it is not what the API promises.
    """
    choices = getattr(completion, "choices", None)
    if not isinstance(choices, list) or len(choices) != 1:
        raise MalformedError(f"{len(choices) if isinstance(choices, list) else 'no'} choices instead of 1")
    (choice,) = choices
    if getattr(choice, "token_ids", None) is None:
        raise EngineError(
            "data.engine OpenAIServer: the server does not say which token ids it sampled (return_token_ids), and text "
            "is never tokenised again. It must be vLLM, 0.10.2 or later"
        )
    if list(getattr(choice, "prompt_token_ids", None) or prompt_ids) != list(prompt_ids):
        raise EngineError("data.engine OpenAIServer: the server saw other prompt tokens than it was sent")
    logps = getattr(getattr(choice, "logprobs", None), "token_logprobs", None)
    if not choice.token_ids or logps is None or len(logps) != len(choice.token_ids) or None in logps:
        raise MalformedError(f"{len(choice.token_ids)} tokens with {len(logps or [])} log-probabilities")
    return choice


def _misfit(folder: Path, other: Path) -> str:
    """The first parameter that the weights in two folders do not have alike; nothing where one cannot be read here."""
    shapes, others = _shapes(folder), _shapes(other)
    if not shapes or not others:
        return ""
    for name in [*shapes, *others]:
        if shapes.get(name) != others.get(name):
            return f"{name} is {shapes.get(name, 'missing')} there, {others.get(name, 'missing')} at the server"
    return ""


def _shapes(folder: Path) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        with safe_open(path, framework="pt") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    return shapes


def run_command(command: Sequence[str], policy: PolicyHandle, clean: Callable[[str], str]) -> None:
    """Runs the user's own way to give the servers a policy.

    Args:
        command: its words, with {folder} and {name} for the policy's.
        policy: what they stand for.
        clean: takes keys out of a line that is shown.

    Raises:
        EngineError: it failed; with the end of what it said.
    """
    words = [word.replace("{folder}", resolve(policy.folder)).replace("{name}", policy.name) for word in command]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError as error:
        raise EngineError(f"data.engine.command: {words[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        tail = "\n".join(map(clean, done.stdout.splitlines()[-10:]))
        raise EngineError(f"data.engine.command: {words[0]} ended with {done.returncode}:\n{tail}")


@torch.no_grad()
def _token_logps(model: Any, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> torch.Tensor:
    """[T] float32 nats of each token of a response, on the CPU."""
    ids = torch.tensor([[*prompt_ids, *token_ids]], device=next(model.parameters()).device)
    logits_TV = model(input_ids=ids, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].float()
    return logits_TV.log_softmax(-1).gather(-1, ids[0, len(prompt_ids) :, None]).squeeze(-1).cpu()
