"""Generation engines, one file per generator."""

from sppo_lightning.engines.base import Engine
from sppo_lightning.engines.openai_server import OpenAIServer
from sppo_lightning.engines.transformers import Transformers
from sppo_lightning.engines.vllm import VLLM

__all__ = ["VLLM", "Engine", "OpenAIServer", "Transformers"]
