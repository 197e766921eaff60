"""A chat model behind an OpenAI-compatible server as the judge."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sppo_lightning.errors import ConfigError, OracleError, SPPOError
from sppo_lightning.io.assets import resolve
from sppo_lightning.io.endpoints import Answer, Call, EndpointError, Endpoints, EndpointSettings, Refused
from sppo_lightning.oracles.llm_judge_template import JudgeTemplate
from sppo_lightning.oracles.llm_reply import NoVerdictError, reply_of, verdict_of
from sppo_lightning.oracles.pairwise import Pair, PairwiseOracle
from sppo_lightning.oracles.unfinished import UnfinishedError
from sppo_lightning.types import Prompt

_ENOUGH_REPLIES = 8
"""After so many replies without a single verdict, the judge or its template is wrong."""

_TOP_LOGPROBS = 20
_TYPICAL_TOKENS = 1000
"""What a judge reads for a query, where nothing is known yet: two responses of 400 tokens, and the template."""

_MARKER_TOKENS = 32

_EASY = Pair(
    prompt=Prompt(prompt_id="easy", messages=({"role": "user", "content": "What is 2 + 3?"},)),
    first="2 + 3 = 5.",
    second="I do not know.",
)

_SETS_ITSELF = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "logprobs", "top_logprobs"}
    | {"n", "best_of", "stream"}
)
"""Fields of a request that are settings of the judge, or decide what a reply costs and looks like."""


class LLMJudge(PairwiseOracle):
    """Asks a chat model which of two responses is better, in both orders.

    Where the server gives the probabilities of the reply's tokens (`top_logprobs`), P = p(A) / (p(A) + p(B)); otherwise
    the letter in the reply counts as 1 or 0. What names neither letter is no verdict: it is counted
    (`round/unparsable_replies`, `round/refusals`, ...), never guessed.

    Args:
        model: the model's name at the server.
        base_url: the server's address up to and with "/v1", or several of the same model, which share the work.
        api_key_env: the NAME of the environment variable that holds the API key; not set: no key is sent.
        template: a YAML file with the texts that the judge is shown; `assets/judges/pairwise.yaml` of this package is
            the default and shows the keys.
        temperature: of the judge's own sampling; null does not send one, which some models ask for.
        max_tokens: of the judge's reply. A template that lets it reason first needs room.
        logprobs: ask for probabilities. Switch it off for a server that refuses the question for it.
        extra_body: further fields of every request, such as `{chat_template_kwargs: {enable_thinking: false}}`; none
            that the judge sets itself.
        usd_per_million_input_tokens: the price of what the judge reads; with the other price, costs are counted.
        usd_per_million_output_tokens: the price of what it writes.
        max_concurrent: requests on their way at a time, over all servers.
        timeout_s: seconds after which a request counts as failed; it is tried again.
        patience_s: seconds to wait for servers of which none answers, before the run stops; it can be resumed.

    Raises:
        ConfigError: a setting or the template cannot work.
    """

    not_deciding = frozenset(
        {
            "base_url",
            "api_key_env",
            "usd_per_million_input_tokens",
            "usd_per_million_output_tokens",
            "max_concurrent",
            "timeout_s",
            "patience_s",
        }
    )
    works_on = "elsewhere"

    def __init__(
        self,
        model: str,
        base_url: str | list[str],
        api_key_env: str | None = None,
        template: str = "package:judges/pairwise.yaml",
        temperature: float | None = 0.0,
        max_tokens: int = 16,
        logprobs: bool = True,
        extra_body: dict[str, Any] | None = None,
        usd_per_million_input_tokens: float | None = None,
        usd_per_million_output_tokens: float | None = None,
        max_concurrent: int = 16,
        timeout_s: float = 120.0,
        patience_s: float = 600.0,
    ) -> None:
        if taken := sorted(_SETS_ITSELF & set(extra_body or {})):
            raise ConfigError(
                f"data.oracle.extra_body must not set {', '.join(taken)}: the judge sets what a request needs. Use its "
                "own settings (model, max_tokens, temperature, logprobs)"
            )
        if max_tokens < 1:
            raise ConfigError(f"data.oracle.max_tokens must be at least 1; got {max_tokens}")
        if (usd_per_million_input_tokens is None) != (usd_per_million_output_tokens is None):
            raise ConfigError(
                "data.oracle.usd_per_million_input_tokens and usd_per_million_output_tokens go together; 0 is a price"
            )
        self.model, self.base_url, self.api_key_env = model, base_url, api_key_env
        self.template = resolve(template)  # a path, so that verdicts are kept under the template's content
        self.temperature, self.max_tokens, self.logprobs = temperature, max_tokens, logprobs
        self.extra_body = extra_body
        self.usd_per_million_input_tokens = usd_per_million_input_tokens
        self.usd_per_million_output_tokens = usd_per_million_output_tokens
        self.max_concurrent, self.timeout_s, self.patience_s = max_concurrent, timeout_s, patience_s
        self._endpoints = Endpoints(
            EndpointSettings(
                place="data.oracle",
                base_url=base_url,
                api_key_env=api_key_env,
                max_concurrent=max_concurrent,
                timeout_s=timeout_s,
                patience_s=patience_s,
            )
        )
        self._template = JudgeTemplate(self.template)
        if usd_per_million_input_tokens is not None:
            self.usd_per_query = self._price(_TYPICAL_TOKENS, max_tokens)
        super().__init__()

    def _count_anew(self) -> None:
        super()._count_anew()
        self._counts: Counter[str] = Counter()
        self._retries_before = self._endpoints.troubles.total()
        self._without_verdict = ""  # the first of them

    @property
    def queries(self) -> int:
        """Replies received since the object was made."""
        return self._counts["queries"]

    @property
    def usd(self) -> float | None:
        """What they cost; None without prices."""
        return self._price(self._counts["prompt_tokens"], self._counts["completion_tokens"])

    def most_usd(self, pair: Pair) -> float | None:
        """The most that both orders of a pair can cost, US dollars; None without prices."""
        prices = [self._price(*self._most_tokens(shown)) for shown in (pair, pair.swapped)]
        return None if None in prices else sum(price or 0.0 for price in prices)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Looks whether the judge is there: the key is set, and the server has the model.

        Raises:
            ConfigError: the key is missing or refused, or the server lists other models.
        """
        for url in self._endpoints.settings.urls:
            self._endpoints.check_model(url, self.model)

    def prefer_first(self, pairs: Sequence[Pair]) -> list[float | None]:
        """Asks about every pair in the order in which it is shown; see `PairwiseOracle`.

        Raises:
            UnfinishedError: the servers, or the model behind them, cannot be asked further; holds what was answered.
            OracleError: no reply holds a verdict.
        """
        stopped_by: SPPOError | None = None
        answers: Sequence[Answer | Refused | None]
        try:
            answers = self._endpoints.ask([self._call(pair) for pair in pairs])
        except EndpointError as error:
            stopped_by = OracleError(f"LLMJudge: {error}")  # what lies behind it may quote the key
            # Refusals are the requests' own fault only where others are answered.
            were_answered = [isinstance(answer, Answer) for answer in error.answers]
            answers = error.answers if any(were_answered) else ()
            if all(isinstance(answer, Refused) for answer in error.answers) and error.answers and self._is_able():
                answers, stopped_by = error.answers, None
        verdicts: dict[int, float | None] = {}
        for number, answer in enumerate(answers):
            try:
                if answer is not None:
                    verdicts[number] = self._verdict(pairs[number], answer)
            except OracleError as error:
                stopped_by = stopped_by or error
        num_verdicts = self._counts["verdicts"] = self._counts["verdicts"] + sum(
            verdict is not None for verdict in verdicts.values()
        )
        if not num_verdicts and self.queries >= _ENOUGH_REPLIES and not self._is_able():
            raise OracleError(
                f"LLMJudge: none of {self.queries} replies of {self.model} holds a verdict, the first is "
                f"{self._without_verdict[:200]!r}. Does the model follow data.oracle.template, and is there room in "
                f"data.oracle.max_tokens={self.max_tokens}?"
            )
        if stopped_by is not None:
            raise UnfinishedError(str(stopped_by), verdicts)
        return [verdicts[number] for number in range(len(pairs))]

    def judge(self, pairs: Sequence[Pair]) -> list[float | None]:
        """P(first beats second), averaged over both orders; see `PairwiseOracle`.

        Raises:
            UnfinishedError: see `prefer_first`; holds the pairs of which both orders were answered.
        """
        try:
            return super().judge(pairs)
        except UnfinishedError as error:
            finished: dict[int, float | None] = {}
            for number in range(len(pairs)):
                orders = (number, number + len(pairs))
                if all(order in error.finished for order in orders):
                    as_shown, as_swapped = (error.finished[order] for order in orders)
                    known = as_shown is not None and as_swapped is not None
                    finished[number] = (as_shown + 1 - as_swapped) / 2 if known else None
            raise UnfinishedError(str(error), finished) from None

    def measured(self) -> dict[str, float]:
        """See `PairwiseOracle`; also what was asked and spent, replies without a verdict by reason, and retries."""
        counts = {name: float(count) for name, count in self._counts.items() if name != "verdicts"}
        spent = {} if self.usd is None else {"usd": self.usd}
        return (
            super().measured()
            | counts
            | spent
            | {"retries": float(self._endpoints.troubles.total() - self._retries_before)}
        )

    def _price(self, input_tokens: int, output_tokens: int) -> float | None:
        """US dollars; None without prices."""
        if self.usd_per_million_input_tokens is None or self.usd_per_million_output_tokens is None:
            return None
        price = input_tokens * self.usd_per_million_input_tokens + output_tokens * self.usd_per_million_output_tokens
        return price / 1e6

    def _most_tokens(self, pair: Pair) -> tuple[int, int]:
        """The most that one order of a pair can take to read and to answer."""
        # No tokenizer makes more tokens than bytes; each message may add a few markers.
        messages = self._template.messages(pair)
        return sum(len(message["content"].encode()) + _MARKER_TOKENS for message in messages), self.max_tokens

    def _call(self, pair: Pair) -> Call:
        request: dict[str, Any] = {"model": self.model, "messages": self._template.messages(pair)}
        request |= {"max_completion_tokens": self.max_tokens, "extra_body": self.extra_body}
        if self.temperature is not None:
            request["temperature"] = self.temperature
        if self.logprobs:
            request |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}

        async def call(client: Any) -> Any:
            completion = await client.chat.completions.create(**request)
            return reply_of(completion), completion

        return call

    def _is_able(self) -> bool:
        """Whether the judge has a verdict on an easy pair, so that it is the others' fault that they got none."""
        try:
            (answer,) = self._endpoints.ask([self._call(_EASY)])
        except EndpointError:
            return False
        if isinstance(answer, Refused) or self._verdict(_EASY, answer) is None:
            return False
        self._counts["verdicts"] += 1
        return True

    def _verdict(self, pair: Pair, answer: Answer | Refused) -> float | None:
        if isinstance(answer, Refused):
            self._note("refused_requests", answer.reason)
            return None
        choice, completion = answer.value
        self._count(pair, completion)
        try:
            probability, is_soft = verdict_of(choice, self._template.pattern)
        except NoVerdictError as error:
            self._note(error.kind, str(error))
            return None
        if self.logprobs and not is_soft:
            self._counts["hard_verdicts"] += 1
            if self._counts["hard_verdicts"] == 1:
                warnings.warn(
                    f"data.oracle LLMJudge: {self.model} gave no probabilities with its verdict; the letter alone "
                    "counts, 1 or 0 (round/hard_verdicts)",
                    stacklevel=2,
                )
        return probability

    def _note(self, kind: str, text: str) -> None:
        text = self._endpoints.clean(text)
        self._without_verdict = self._without_verdict or text or kind
        self._counts[kind] += 1
        if self._counts[kind] == 1:
            warnings.warn(
                f"data.oracle LLMJudge: no verdict ({kind.replace('_', ' ')}), the first: {text[:200]!r}; such pairs "
                f"stay unjudged and are counted (round/{kind})",
                stacklevel=2,
            )

    def _unmetered(self, used: tuple[Any, Any], most: tuple[int, int]) -> None:
        self._counts["unmetered_queries"] += 1
        if self._counts["unmetered_queries"] == 1 and self.usd is not None:
            said = self._endpoints.clean(f"{used[0]!r} and {used[1]!r}")
            warnings.warn(
                f"data.oracle LLMJudge: {self.model} says that a query took {said} tokens to read and to write, where "
                f"numbers up to {most[0]} and {most[1]} are possible; such queries count as the most that they can "
                "cost (round/unmetered_queries)",
                stacklevel=2,
            )

    def _count(self, pair: Pair, completion: Any) -> None:
        """Adds up what was asked, and notices when another model answers."""
        self._counts["queries"] += 1
        usage = getattr(completion, "usage", None)
        most = self._most_tokens(pair)
        used: Any = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if not all(type(tokens) is int and 0 <= tokens <= limit for tokens, limit in zip(used, most, strict=True)):
            self._unmetered(used, most)
            used = most  # what was booked, so that a budget holds
        self._counts["prompt_tokens"] += used[0]
        self._counts["completion_tokens"] += used[1]
        answered_as = self._endpoints.clean(str(getattr(completion, "model", None)))
        before = self._endpoints.answered_as
        if answered_as == before:
            return
        if before is not None:
            raise OracleError(
                f"LLMJudge: the server answered as {before!r} and now as {answered_as!r}; verdicts of two "
                f"judges do not mix. Ask for one model by its full name: data.oracle.model"
            )
        self._endpoints.answered_as = answered_as
        if not _same_model(self.model, answered_as):
            warnings.warn(
                f"data.oracle LLMJudge: {self.model!r} was asked and {answered_as!r} answered: a second name of the "
                "same model, or another judge",
                stacklevel=2,
            )


def _same_model(asked: str, answered: str) -> bool:
    """`gpt-4o` is answered by `gpt-4o-2024-08-06`, `openai/gpt-4o` by `gpt-4o`."""
    return answered.startswith(asked) or asked.rsplit("/", 1)[-1] in answered
