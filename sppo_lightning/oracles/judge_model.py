"""Running a judge that is a model: where, in which precision, in which batches, and whether its answers are numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sppo_lightning.errors import ConfigError, OracleError
from sppo_lightning.functional.rows import split_rows

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def choose_device(device: str) -> torch.device:
    """The device of a judge: "auto" is the GPU of this process if there is one, else the CPU.

    Raises:
        ConfigError: it does not exist here.
    """
    if device == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"data.oracle.device: {device!r} cannot be used here ({reason}); try auto or cpu") from error
    return chosen


def choose_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The precision of a judge: "auto" is bfloat16 on a GPU and float32 on a CPU.

    Raises:
        ConfigError: an unknown name.
    """
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(f"data.oracle.dtype must be auto, float32, bfloat16 or float16, got {dtype!r}")
    return getattr(torch, dtype)


def deciding_dtype(dtype: Dtype, device: str) -> dict[str, str]:
    """What "auto" comes to, for a judge's `decides`: verdicts in another precision are others.

    Does not touch the device, which may be another process's to open.
    """
    if dtype != "auto":
        return {}
    gpu = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    return {"dtype": "bfloat16" if gpu else "float32"}


def choose_batch_tokens(batch_tokens: int | None, device: torch.device) -> int:
    """Rows of a batch times its longest row, where nobody says it.

    On a GPU small batches wait for their launches; on a CPU large ones only cost memory.
    """
    return batch_tokens or (16384 if device.type == "cuda" else 2048)


def check_weights_finite(model: nn.Module, judge: str, source: str) -> None:
    """Refuses NaN and infinity in a judge's weights.

    Raises:
        OracleError: names the first such tensor.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise OracleError(
                f"{judge}: {name} of {source} holds NaN or infinity; every verdict would be meaningless. Fetch or "
                "train the model again"
            )


@torch.inference_mode()
def in_batches(
    rows: Sequence[Sequence[int]],
    forward: Callable[[Tensor, Tensor, list[int]], Tensor],
    *,
    batch_tokens: int,
    pad_id: int,
    device: torch.device,
) -> Tensor:
    """Runs rows of different lengths through a model in batches of similar length.

    Args:
        rows: [R][T] token ids. Nothing is truncated here, so that a row's answer cannot depend on its batch.
        forward: takes token ids [r, T] padded on the right, which of them are real [r, T] int64, and the indices of
            these rows; returns [r, ...].
        batch_tokens: rows of a batch times its longest row; a longer row is a batch of its own.
        pad_id: stands where a row is shorter than its batch.
        device: where the batches go.

    Returns:
        [R, ...] float64 on the CPU.
    """
    lengths = [len(row) for row in rows]
    answers: list[Tensor] = []
    order: list[int] = []
    for indices in split_rows(lengths, batch_tokens):
        longest = lengths[indices[0]]
        ids_RT = torch.full((len(indices), longest), pad_id)
        mask_RT = torch.zeros_like(ids_RT)
        for place, index in enumerate(indices):
            ids_RT[place, : lengths[index]] = torch.tensor(rows[index])
            mask_RT[place, : lengths[index]] = 1
        answers.append(forward(ids_RT.to(device), mask_RT.to(device), indices).double().cpu())
        order += indices
    if not rows:
        return torch.zeros(0, dtype=torch.float64)
    joined = torch.cat(answers)
    return torch.empty_like(joined).index_copy_(0, torch.tensor(order), joined)


def release_memory() -> None:
    """Gives the GPU memory of a judge that was let go of back to others."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
