"""Log-probabilities of responses under a causal language model, in the fastest layout that the model allows.

Shapes: R rows (one row = one prompt with one response), T positions.
"""

from __future__ import annotations

from torch import Tensor, nn

from sppo_lightning.functional.forward import loss_in, token_logps_in
from sppo_lightning.functional.fused_head import RowsLoss, sum_rows
from sppo_lightning.functional.layout import layout_of
from sppo_lightning.functional.rows import TokenRows


def response_logps(model: nn.Module, rows: TokenRows) -> Tensor:
    """Sums log pi(response | prompt) over the tokens of each response, the terminator included; see `token_logps`.

    Args:
        model: a transformers causal language model.
        rows: R rows.

    Returns:
        [R] float32 nats on the model's device, with gradient where autograd is on. An empty response gives 0.
    """
    return sum_rows(token_logps_in(layout_of(model), model, rows), _lengths(rows))


def token_logps(model: nn.Module, rows: TokenRows) -> tuple[Tensor, ...]:
    """Log pi(token | prompt and tokens before it) of every response token, the terminator included.

    Args:
        model: a transformers causal language model, any dtype, in train or eval mode.
        rows: R rows. They go through the model at once; bound that with `packs_of`.

    Returns:
        [R][T] float32 nats on the model's device, with gradient where autograd is on.
    """
    return token_logps_in(layout_of(model), model, rows).split(_lengths(rows))


def response_loss(model: nn.Module, rows: TokenRows, loss_of: RowsLoss) -> Tensor:
    """A loss of the rows' log-probabilities, ready for its backward, with the least work.

    Args:
        model: as in `token_logps`.
        rows: R rows, those of a prompt side by side.
        loss_of: [R] float32 log-probabilities to their summed loss: terms that each depend on one prompt's responses.
            It is called once or several times, the last time with all log-probabilities; before, some are still 0.

    Returns:
        The loss, a scalar. Its gradient is that of `loss_of(response_logps(model, rows))`.
    """
    return loss_in(layout_of(model), model, rows, loss_of)


def _lengths(rows: TokenRows) -> list[int]:
    return [len(response) for response in rows.response_ids]
