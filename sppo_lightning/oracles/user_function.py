"""A function in a file of the user's: found, run, and every way in which it can fail said in one line."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from sppo_lightning.errors import ConfigError, OracleError


class UserFunction:
    """One function of a Python file. The file is run, here, with all rights of this process.

    Args:
        path: `my_judge.py:prefer`, the file and the function in it.

    Attributes:
        content: hash of what was run, and the function's name; the file may be edited while it is in use.

    Raises:
        ConfigError: there is no such file or function, or the file fails when it is run; names the file and the line.
    """

    def __init__(self, path: str) -> None:
        file, colon, name = path.rpartition(":")
        if not colon or not file or not name.isidentifier():
            raise ConfigError(
                f"data.oracle.path must look like my_judge.py:prefer, a file and a function in it; got {path!r}"
            )
        self.file, self.name = Path(file), name
        source = self._source()
        self.content = f"{hashlib.sha256(source).hexdigest()}:{name}"
        found = getattr(self._module(source), name, None)
        if not callable(found):
            raise ConfigError(f"{self.file}: there is no function {name}{self._near(name)}")
        self._function: Callable[..., Any] = found

    def __str__(self) -> str:
        return f"{self.file}:{self.name}"

    def __call__(self, *args: Any) -> Any:
        """Calls it.

        Raises:
            OracleError: it raised; names the line in the user's file.
        """
        try:
            return self._function(*args)
        except (Exception, SystemExit) as error:  # a judge that calls sys.exit must not end the run as if it were done
            raise OracleError(f"{self._where(error)}: {self.name} raised {_said(error)}") from error

    def _source(self) -> bytes:
        try:
            return self.file.read_bytes()
        except OSError as error:
            reason = "there is no file" if isinstance(error, FileNotFoundError) else f"{error.strerror}:"
            raise ConfigError(f"data.oracle.path: {reason} {self.file}") from error

    def _module(self, source: bytes) -> ModuleType:
        # A name of its own, so that the user's file hides no module and is hidden by none.
        name = f"_sppo_user_{hashlib.sha256(str(self.file.resolve()).encode()).hexdigest()[:16]}_{self.file.stem}"
        spec = importlib.util.spec_from_file_location(name, self.file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"data.oracle.path: {self.file} is no Python file; its name must end in .py")
        self._contents = module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses and typing look for what a class's annotations name
        try:
            # What was hashed is what is run: not what the file holds by now, nor what is cached of it.
            exec(compile(source, self.file, "exec", dont_inherit=True), vars(module))
        except SyntaxError as error:
            raise ConfigError(f"{error.filename}, line {error.lineno}: is not Python: {error.msg}") from error
        except (Exception, SystemExit) as error:
            raise ConfigError(f"{self._where(error)}: raised {_said(error)} when the file was run") from error
        return module

    def _where(self, error: BaseException) -> str:
        """The last line of the user's file that the error went through."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename) == self.file]
        return f"{self.file}, line {lines[-1]}" if lines else str(self.file)

    def _near(self, name: str) -> str:
        own = [key for key, value in vars(self._contents).items() if callable(value) and not key.startswith("_")]
        close = get_close_matches(name, own, n=1)
        return f"; did you mean {close[0]}?" if close else f"; it has {', '.join(own) or 'none'}"


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
