"""Generation engines, one file per generator."""

from sppo_lightning.engines.base import Engine
from sppo_lightning.engines.transformers import Transformers

__all__ = ["Engine", "Transformers"]
