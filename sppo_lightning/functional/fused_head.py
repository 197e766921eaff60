"""Log-probabilities of given tokens from hidden states, without ever holding all of their logits.

The head's product, the log-softmax and, where the loss is known by then, the gradient are made block by block in one
buffer. Log-sum-exp, log-probabilities and the head's gradient are float32 whatever the model computes in.

Shapes: N response tokens, n tokens of one block, C hidden size, V vocabulary, R responses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Logits held at a time (128 MiB of float32). A block is whole prompts where they fit; then their logits are computed
# once, else a second time for the gradient.
_BLOCK_LOGITS = 2**25
# Logits normalised at a time on the CPU, to stay within its cache.
_CACHED_LOGITS = 2**17

RowsLoss = Callable[[Tensor], Tensor]
"""[R] log-probabilities -> the summed loss: terms that each depend on the responses to one prompt only."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """logits = cap * tanh(scale * (hidden @ weight.T + bias) / cap), without the tanh where there is no cap."""

    weight_VC: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None


def check_head(model: Any) -> None:
    """Raises TypeError where the head is not a plain matrix product, such as a LoRA layer or a quantised one."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise TypeError(f"the head is a {type(head).__name__} of {type(head).__module__.partition('.')[0]}")


def head_of(model: Any) -> Head:
    """The head of a transformers causal language model.

    What a model does to its logits afterwards is read off its configuration; `layout.layout_of` compares the result
    with the model's own.
    """
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
    scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
    return Head(
        weight_VC=head.weight,
        bias_V=head.bias,
        scale=float(scale),
        cap=getattr(config, "final_logit_softcapping", None),  # Gemma
    )


def fused_token_logps(hidden_NC: Tensor, head: Head, targets_N: Tensor, spans: Sequence[Sequence[int]]) -> Tensor:
    """[N] float32 nats: log-softmax of the head's logits at the target tokens. The backward computes them again.

    The arguments are those of `fused_loss`, and so are the blocks: both give the same numbers to the last bit.
    """
    return _TokenLogps.apply(hidden_NC, head.weight_VC, head.bias_V, targets_N, head, spans)


def fused_loss(
    hidden_NC: Tensor, head: Head, targets_N: Tensor, spans: Sequence[Sequence[int]], loss_of: RowsLoss
) -> tuple[Tensor, Tensor]:
    """A loss of response log-probabilities, with its gradient made on the way.

    The loss is a sum over prompts, so its derivative with respect to a prompt's responses is known as soon as theirs
    are; the gradient is then made from the probabilities that are still in the buffer.

    Args:
        hidden_NC: the head's inputs.
        head: the head.
        targets_N: the response tokens, row after row.
        spans: for each prompt the lengths of its responses, in tokens.
        loss_of: [R] log-probabilities to the summed loss. It is called once a block, the last time with all of them;
            before, those that are not known yet are 0.

    Returns:
        The loss, whose backward is the gradient's last step, and the [R] float32 log-probabilities, detached.
    """
    return _Loss.apply(hidden_NC, head.weight_VC, head.bias_V, targets_N, head, spans, loss_of)


@dataclass(frozen=True)
class _Block:
    """Whole prompts whose logits are in the buffer at once, or one prompt that takes several turns."""

    rows: slice
    lengths: Sequence[int]
    turns: Sequence[slice]  # of response tokens


def _blocks(spans: Sequence[Sequence[int]], V: int) -> list[_Block]:
    most = max(1, _BLOCK_LOGITS // V)
    prompts: list[list[Sequence[int]]] = []
    for span in spans:
        if not prompts or sum(map(sum, prompts[-1])) + sum(span) > most:
            prompts.append([])
        prompts[-1].append(span)
    blocks, row, token = [], 0, 0
    for together in prompts:
        lengths = [length for span in together for length in span]
        end = token + sum(lengths)
        turns = [slice(first, min(first + most, end)) for first in range(token, end, most)]
        blocks.append(_Block(slice(row, row + len(lengths)), lengths, turns))
        row, token = row + len(lengths), end
    return blocks


class _Probs(NamedTuple):
    """A turn's probabilities before the division: exp(logits - max), and their sums."""

    tokens: slice
    targets_n: Tensor
    exp_nV: Tensor
    total_n: Tensor
    slope_nV: Tensor | None


class _Worker:
    """The head's arithmetic, turn by turn in one buffer."""

    def __init__(
        self,
        inputs: Sequence[Tensor],
        head: Head,
        blocks: Sequence[_Block],
        dtype: torch.dtype,
        needed: Sequence[bool] = (False, False, False),
    ) -> None:
        hidden_NC, weight_VC, bias_V, self._targets_N = inputs
        self._head, self._half = head, dtype != torch.float32
        self._hidden_NC, self._weight_VC, self._bias_V = hidden_NC.to(dtype), weight_VC.to(dtype), bias_V
        most = max((turn.stop - turn.start for block in blocks for turn in block.turns), default=0)
        self._buffer_nV = hidden_NC.new_empty((most, len(weight_VC)), dtype=torch.float32)
        self._half_nV = torch.empty_like(self._buffer_nV, dtype=dtype) if self._half else self._buffer_nV
        # float32 sums over blocks, whatever the dtype of the model
        self.hidden_grad, self.weight_grad, self.bias_grad = (
            torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and needed else None
            for tensor, needed in zip((hidden_NC, weight_VC, bias_V), needed, strict=True)
        )

    def probs(self, tokens: slice) -> tuple[Tensor, _Probs]:
        """[n] the log-probabilities of a turn's targets, and what their gradient is made of."""
        hidden_nC, targets_n = self._hidden_NC[tokens], self._targets_N[tokens]
        n, V = len(targets_n), len(self._weight_VC)
        logits_nV = self._buffer_nV[:n]
        if self._half:
            logits_nV.copy_(torch.mm(hidden_nC, self._weight_VC.t(), out=self._half_nV[:n]))
        else:
            torch.mm(hidden_nC, self._weight_VC.t(), out=logits_nV)
        if self._bias_V is not None:
            logits_nV += self._bias_V
        if self._head.scale != 1:
            logits_nV *= self._head.scale
        slope_nV = None
        if self._head.cap is not None:
            slope_nV = 1 - logits_nV.div_(self._head.cap).tanh_().square()
            logits_nV *= self._head.cap
        target_n = logits_nV.gather(1, targets_n[:, None])[:, 0]
        max_n, total_n = torch.empty_like(target_n), torch.empty_like(target_n)
        cached = max(1, _CACHED_LOGITS // V) if logits_nV.device.type == "cpu" else n
        parts = (tensor.split(cached) for tensor in (logits_nV, max_n, total_n))
        for x_cV, max_c, total_c in zip(*parts, strict=True):
            torch.amax(x_cV, dim=1, out=max_c)
            torch.sum(x_cV.sub_(max_c[:, None]).exp_(), dim=1, out=total_c)
        return target_n - max_n - total_n.log(), _Probs(tokens, targets_n, logits_nV, total_n, slope_nV)

    def backward(self, probs: _Probs, grad_n: Tensor) -> None:
        """Adds d(sum of grad * logp): grad (onehot(target) - p) at the logits, times the slope of scale and cap."""
        tokens, targets_n, exp_nV, total_n, slope_nV = probs
        grad_n = grad_n * self._head.scale
        by_total_n, at_target_n = grad_n / total_n, grad_n
        if slope_nV is not None:
            at_target_n = grad_n * slope_nV.gather(1, targets_n[:, None])[:, 0]
            exp_nV *= slope_nV
        if self.bias_grad is not None:  # the bias stands behind the scale
            self.bias_grad.addmv_(exp_nV.t(), by_total_n, alpha=-1).index_add_(0, targets_n, at_target_n)
        if self._half:
            exp_nV = self._half_nV[: len(targets_n)].copy_(exp_nV)
        if self.hidden_grad is not None:
            expected_nC = torch.mm(exp_nV, self._weight_VC).float().mul_(by_total_n[:, None])
            self.hidden_grad[tokens] = at_target_n[:, None] * self._weight_VC[targets_n] - expected_nC
        if self.weight_grad is not None:
            hidden_nC = self._hidden_NC[tokens].float()
            weighted_nC = (by_total_n[:, None] * hidden_nC).to(exp_nV.dtype)
            if self._half:
                self.weight_grad -= torch.mm(exp_nV.t(), weighted_nC)
            else:
                self.weight_grad.addmm_(exp_nV.t(), weighted_nC, alpha=-1)
            self.weight_grad.index_add_(0, targets_n, at_target_n[:, None] * hidden_nC)

    def gradients(self, inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The sums in the dtypes of what they belong to."""
        grads = (self.hidden_grad, self.weight_grad, self.bias_grad)
        pairs = zip(grads, inputs[:3], strict=True)
        return [None if grad is None or tensor is None else grad.to(tensor.dtype) for grad, tensor in pairs]


def _compute_dtype(hidden_NC: Tensor) -> torch.dtype:
    device = hidden_NC.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_NC.dtype


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NC: Any, weight_VC: Any, bias_V: Any, targets_N: Any, head: Any, spans: Any) -> Tensor:
        inputs = hidden_NC, weight_VC, bias_V, targets_N
        ctx.save_for_backward(*inputs)
        ctx.head, ctx.blocks, ctx.dtype = head, _blocks(spans, len(weight_VC)), _compute_dtype(hidden_NC)
        with torch.autocast(hidden_NC.device.type, enabled=False):
            worker = _Worker(inputs, head, ctx.blocks, ctx.dtype)
            turns = [turn for block in ctx.blocks for turn in block.turns]
            return torch.cat([hidden_NC.new_empty(0, dtype=torch.float32), *(worker.probs(turn)[0] for turn in turns)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        with torch.autocast(grad_N.device.type, enabled=False):
            worker = _Worker(inputs, ctx.head, ctx.blocks, ctx.dtype, ctx.needs_input_grad[:3])
            for block in ctx.blocks:
                for turn in block.turns:
                    worker.backward(worker.probs(turn)[1], grad_N[turn])
        return *worker.gradients(inputs), None, None, None


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: Any, weight_VC: Any, bias_V: Any, targets_N: Any, head: Any, spans: Any, loss_of: Any
    ) -> tuple[Tensor, Tensor]:
        inputs = hidden_NC, weight_VC, bias_V, targets_N
        blocks = _blocks(spans, len(weight_VC))
        logps_R = torch.zeros(sum(len(block.lengths) for block in blocks), device=hidden_NC.device)
        with torch.autocast(hidden_NC.device.type, enabled=False):
            worker = _Worker(inputs, head, blocks, _compute_dtype(hidden_NC), ctx.needs_input_grad[:3])
            for block in blocks:
                logps_n = logps_R.new_empty(0)
                for turn in block.turns:
                    turn_logps, probs = worker.probs(turn)
                    logps_n = torch.cat([logps_n, turn_logps])
                logps_R[block.rows] = sum_rows(logps_n, block.lengths)
                known_R = logps_R.clone().requires_grad_()
                with torch.enable_grad():
                    loss = loss_of(known_R)
                    (grad_R,) = torch.autograd.grad(loss, known_R)
                lengths = torch.tensor(block.lengths, device=grad_R.device)
                grad_n = grad_R[block.rows].repeat_interleave(lengths, output_size=len(logps_n))
                grads = grad_n.split([turn.stop - turn.start for turn in block.turns])
                for turn, grad in zip(block.turns, grads, strict=True):
                    if len(block.turns) > 1:  # the buffer holds the last turn's
                        probs = worker.probs(turn)[1]
                    worker.backward(probs, grad)
        ctx.gradients = worker.gradients(inputs)
        ctx.mark_non_differentiable(logps_R)
        return loss.detach(), logps_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: None) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # freed as they are used
        return *(None if grad is None else grad.mul_(grad_loss) for grad in gradients), None, None, None, None


def sum_rows(logps_N: Tensor, lengths: Sequence[int]) -> Tensor:
    """[R] sums over the tokens of each row.

    Row by row, so that the order of the additions depends on nothing but the row, and no atomic additions are involved.
    """
    return torch.stack([logps.sum() for logps in logps_N.split(list(lengths))])
