"""The carriers that travel through a round, and what the round needs from the outside.

Shape letters, used in every name of this package:
    B prompts, K candidates a prompt, J opponent responses a prompt, R training rows (one row = one response),
    M pairs, T tokens, V vocabulary, H history policies.

Every carrier is frozen, takes keyword arguments only, and checks itself at birth. Nothing here imports more than torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypedDict

import torch
from torch import Tensor

from sppo_lightning.errors import EngineError, OracleError

FinishReason = Literal["stop", "length"]


class Message(TypedDict):
    """One turn of a conversation: `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One conversation that waits for an answer.

    Example:
        `Prompt(prompt_id="mt-81", messages=({"role": "user", "content": "Write a travel post."},), metadata={})`

    Attributes:
        prompt_id: unique in its file; every number of a round lies on (prompt_id, candidate index).
        messages: the turns, oldest first, the last one not the assistant's.
        metadata: further columns of the source, such as a reference answer for a verifier.
    """

    prompt_id: str
    messages: tuple[Message, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last user turn, what an oracle that reads plain text judges against."""
        return self.messages[-1]["content"]

    @property
    def conversation(self) -> tuple[tuple[str, str], ...]:
        """The turns as (role, content): what makes two prompts the same question, whatever their ids."""
        return tuple((message["role"], message["content"]) for message in self.messages)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How responses are drawn. `temperature` 0 means greedy; `top_p` 1 and `top_k` 0 switch the filters off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """K sampled responses for each of B prompts, as token ids: they are never decoded and tokenised again.

    Attributes:
        prompts: the B prompts.
        prompt_token_ids: [B][T] the prompt as the engine saw it, chat template applied.
        token_ids: [B][K][T] response tokens, with the one terminator that the sampler emitted, and without any where
            the response stopped at `max_new_tokens`.
        texts: [B][K] the responses decoded without special tokens, for oracles and people.
        finish_reasons: [B][K] "stop" (a terminator was emitted) or "length" (truncated).
        sampler_logps: [B][K] summed log-probability in nats at temperature 1 as the sampler saw it; a diagnostic,
            never a training input. Empty where the engine has none.
        policy: name of the policy that answered, such as "start" or "round_002".
        sampling: how the responses were drawn.

    Raises:
        EngineError: the nested lists do not agree in B or K.
    """

    prompts: Sequence[Prompt]
    prompt_token_ids: Sequence[Sequence[int]]
    token_ids: Sequence[Sequence[Sequence[int]]]
    texts: Sequence[Sequence[str]]
    finish_reasons: Sequence[Sequence[FinishReason]]
    sampler_logps: Sequence[Sequence[float]] = ()
    policy: str
    sampling: SamplingConfig

    def __post_init__(self) -> None:
        B = len(self.prompts)
        for name in ("prompt_token_ids", "token_ids", "texts", "finish_reasons"):
            if len(getattr(self, name)) != B:
                raise EngineError(f"Candidates: {name} has {len(getattr(self, name))} entries for {B} prompts")
        for prompt, ids, texts, reasons in zip(
            self.prompts, self.token_ids, self.texts, self.finish_reasons, strict=True
        ):
            if not len(ids) == len(texts) == len(reasons) or len(ids) == 0:
                raise EngineError(
                    f"Candidates: prompt {prompt.prompt_id} has {len(ids)} token lists, {len(texts)} texts and "
                    f"{len(reasons)} finish reasons; the engine must return the same number, at least one, of each"
                )

    def __len__(self) -> int:
        return len(self.prompts)

    def at(self, part: slice | Sequence[int]) -> Candidates:
        """The responses to some of the prompts, by their numbers."""
        chosen = range(len(self))[part] if isinstance(part, slice) else part
        fields = ("prompts", "prompt_token_ids", "token_ids", "texts", "finish_reasons", "sampler_logps")
        kept: dict[str, Any] = {name: [values[b] for b in chosen] for name in fields if (values := getattr(self, name))}
        return replace(self, **kept)

    @property
    def num_candidates(self) -> list[int]:
        """[B] the number of responses a prompt has."""
        return [len(ids) for ids in self.token_ids]


@dataclass(frozen=True, kw_only=True)
class PreferenceMatrix:
    """P(row response beats column response) for B prompts.

    In self-play (the default) rows and columns are the same K candidates: the diagonal is 1/2 and P + P^T = 1. Against
    other opponents the columns are their J responses.

    Attributes:
        probs_BKJ: in [0, 1] where judged; what stands elsewhere is meaningless.
        judged_BKJ: False where the pair was not judged (subsampled, quarantined, or the prompt has fewer responses).
            An unjudged pair is never guessed. Default: all judged.
        scores_BK: optional scalar scores of the row responses, where the oracle has them.
        self_play: rows and columns are the same responses.
        prompt_ids: optional, names the prompts in errors.

    Raises:
        OracleError: NaN, a value outside [0, 1], a diagonal other than 1/2, or P + P^T further than 1e-4 from 1. It
            names the first prompt and pair.
    """

    probs_BKJ: Tensor
    judged_BKJ: Tensor | None = None
    scores_BK: Tensor | None = None
    self_play: bool = True
    prompt_ids: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.probs_BKJ.ndim != 3:
            raise OracleError(
                f"PreferenceMatrix: probs_BKJ must be [prompts, candidates, opponents], got shape "
                f"{tuple(self.probs_BKJ.shape)}"
            )
        if self.judged_BKJ is None:
            object.__setattr__(self, "judged_BKJ", torch.ones_like(self.probs_BKJ, dtype=torch.bool))
        assert self.judged_BKJ is not None
        if self.judged_BKJ.shape != self.probs_BKJ.shape:
            raise OracleError(
                f"PreferenceMatrix: judged_BKJ has shape {tuple(self.judged_BKJ.shape)}, probs_BKJ "
                f"{tuple(self.probs_BKJ.shape)}"
            )
        judged = self.judged_BKJ
        self._refuse(judged & ~torch.isfinite(self.probs_BKJ), "a probability must be a finite number")
        self._refuse(judged & ((self.probs_BKJ < 0) | (self.probs_BKJ > 1)), "a probability must lie in [0, 1]")
        if self.self_play:
            if self.probs_BKJ.shape[1] != self.probs_BKJ.shape[2]:
                raise OracleError(
                    f"PreferenceMatrix: self-play compares the same K responses, so the matrix must be square, got "
                    f"{tuple(self.probs_BKJ.shape[1:])}"
                )
            eye = torch.eye(self.probs_BKJ.shape[1], dtype=torch.bool)
            self._refuse(
                judged & eye & ((self.probs_BKJ - 0.5).abs() > 1e-4), "a response against itself must be exactly 1/2"
            )
            both = judged & judged.transpose(1, 2)
            asymmetry = (self.probs_BKJ + self.probs_BKJ.transpose(1, 2) - 1).abs()
            self._refuse(
                both & (asymmetry > 1e-4),
                "P[i,j] + P[j,i] must be 1; average the oracle's answer over both orders",
            )

    def _refuse(self, bad_BKJ: Tensor, rule: str) -> None:
        if not bool(bad_BKJ.any()):
            return
        b, i, j = (int(index) for index in bad_BKJ.nonzero()[0])
        name = self.prompt_ids[b] if self.prompt_ids else f"number {b}"
        raise OracleError(
            f"PreferenceMatrix: {rule}; got P = {float(self.probs_BKJ[b, i, j]):.6g} at prompt {name}, "
            f"pair ({i}, {j}) ({int(bad_BKJ.sum())} such entries)"
        )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a pairing rule decided for one prompt: which responses are trained on, and with which targets.

    Attributes:
        win_rate_K: P(y_k > opponent), from ALL judged comparisons, before any selection; NaN where nothing was judged.
        rows: indices of the kept candidates.
        row_weights: weight of each kept row in the loss; 0 masks it.
        pairs: (chosen, rejected) candidate indices, both among `rows`.
        pair_probs: P(chosen beats rejected) of each pair.
        pair_weights: weight of each pair in the loss.
    """

    win_rate_K: Tensor
    rows: tuple[int, ...]
    row_weights: tuple[float, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    pair_probs: tuple[float, ...] = ()
    pair_weights: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ObjectiveInputs:
    """Everything an objective may look at: R responses of whole prompts, and M pairs of them.

    All log-probabilities are float32 nats summed over the response tokens, the one terminator included.

    Attributes:
        policy_logps_R: under the policy in training, with gradient.
        frozen_logps: name -> [R], without gradient. "previous" is pi_t, "history/j" is pi_{t-j} (j >= 1), "anchor" the
            fixed pi_ref, "auxiliary" ONPO's second policy, "player/i" HT-MNPO's other players. Exactly the names in
            the objective's `needs`.
        num_tokens_R: int64, response tokens, the terminator included.
        win_rate_R: P(y > opponent) in [0, 1], from all judged comparisons of the prompt.
        prompt_R: int64, which prompt a row belongs to (0-based in this batch).
        weight_R: 0 masks a row (a tie, a truncated response).
        pairs_M2: int64 (chosen row, rejected row).
        pair_prob_M: P(chosen beats rejected).
        weight_M: 0 masks a pair.
        log_z_R: optional, the log partition estimate of the row's prompt (SPPO eq. 3.5).
        score_R: optional, how far the oracle's score of a response lies above the mean of those it was compared with: a
            preference score against pi_t (GPO), a reward less its leave-one-out baseline (RLOO, GRPO).
        kl_logps_R: optional, (policy, reference) log-ratios of mismatched prompt-response rows (KTO).
    """

    policy_logps_R: Tensor
    frozen_logps: Mapping[str, Tensor]
    num_tokens_R: Tensor
    win_rate_R: Tensor
    prompt_R: Tensor
    weight_R: Tensor
    pairs_M2: Tensor
    pair_prob_M: Tensor
    weight_M: Tensor
    log_z_R: Tensor | None = None
    score_R: Tensor | None = None
    kl_logps_R: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ObjectiveOutputs:
    """An objective's answer, unreduced: training sums over the global batch and divides by its total weight.

    Attributes:
        loss: [R] or [M].
        weight: [R] or [M], the weights that go with `loss` (`inputs.weight_R` or `inputs.weight_M`).
        metrics: name -> (values, weights) of equal shape, detached; logged as `train/<name>`, weighted means over the
            global batch.
    """

    loss: Tensor
    weight: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class PolicyHandle(Protocol):
    """A policy as a round sees it. Engines in this process use `model`, engines elsewhere read `folder`.

    Attributes:
        name: "start", or "round_002" for the policy after round 2.
        folder: a Hugging Face folder or hub id that holds these weights.
        dtype: of the weights in this process; an engine elsewhere computes in the same.
        model: the weights in this process, in eval mode while a round is played.
        tokenizer: the policy's tokenizer, chat template included.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class

    @property
    def folder(self) -> str: ...  # noqa: D102

    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102

    @property
    def tokenizer(self) -> Any: ...  # noqa: D102

    @property
    def model(self) -> torch.nn.Module:
        """Loads the weights on first use."""
        ...


class Policies(Protocol):
    """The policies that a round can reach."""

    def named(self, name: str) -> PolicyHandle:
        """A policy by the names of `ObjectiveInputs.frozen_logps`, or "current": the one in memory."""
        ...

    def stored(self, source: str) -> PolicyHandle:
        """The policy in a Hugging Face folder or under a hub id; it shares the run's tokenizer."""
        ...


class World(Protocol):
    """The processes that play a round together. Rank 0 decides, all follow."""

    rank: int
    size: int

    def barrier(self) -> None:
        """Waits until every process is here."""
        ...

    def broadcast(self, value: Any) -> Any:
        """Returns rank 0's value on every rank."""
        ...


class Progress(Protocol):
    """What a long stage tells the person who waits: `progress(stage, total, unit)` opens a bar."""

    def __call__(self, stage: str, total: int, unit: str) -> ProgressBar:
        """Opens a bar of `total` units."""
        ...

    def say(self, text: str) -> None:
        """Tells something in a line of its own, the first time that it is said."""
        ...


class ProgressBar(Protocol):
    """One open bar; a `tqdm.tqdm` is one."""

    def update(self, n: int) -> Any:
        """`n` more units are done."""
        ...

    def close(self) -> None:
        """The stage is over."""
        ...
