"""A thread that does the work of one stage, piece by piece, and can be stopped in the middle of a piece."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch


@dataclass(frozen=True)
class Report:
    """A piece of work has ended.

    Attributes:
        who: had it done.
        seconds: how long it took.
        error: what it raised.
    """

    who: Any
    seconds: float
    error: BaseException | None


class StageThread:
    """Works in the gradient mode and on the device of the thread that makes it: PyTorch keeps both for each thread.

    It never keeps the process from ending.

    Args:
        who: stands in its reports.
        name: of the thread, for debuggers.
        reports: where it reports each piece of work.
    """

    def __init__(self, who: Any, name: str, reports: SimpleQueue[Report]) -> None:
        self._who, self._reports = who, reports
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._grad = torch.is_grad_enabled()
        self._cuda_device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def do(self, piece: Callable[[], None]) -> None:
        """Has it done; the next one only after the report."""
        self._inbox.put(piece)

    def stop(self, in_the_middle: bool) -> None:
        """Makes the thread end.

        Args:
            in_the_middle: of a piece of work, which is left at its next step in Python; a call outside of Python, such
                as the wait for a server's answer, comes to its end first.
        """
        self._inbox.put(None)
        if in_the_middle and self._thread.ident is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread.ident), ctypes.py_object(_Stopped))

    def join(self, patience_s: float) -> None:
        """Waits until the thread has ended, this long at most."""
        self._thread.join(patience_s)

    def _work(self) -> None:
        torch.set_grad_enabled(self._grad)
        if self._cuda_device is not None:
            torch.cuda.set_device(self._cuda_device)
        with suppress(_Stopped):
            while (piece := self._inbox.get()) is not None:
                error, start = None, time.perf_counter()
                try:
                    piece()
                except _Stopped:
                    raise
                except BaseException as raised:  # it belongs to whoever asked for the piece
                    error = raised
                self._reports.put(Report(self._who, time.perf_counter() - start, error))


class _Stopped(BaseException):
    """Not an Exception, or those who try again after one would go on."""
