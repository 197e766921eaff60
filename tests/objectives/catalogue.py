"""Every concrete objective of the package, found by walking it."""

import importlib
import inspect
import pkgutil

import torch

import sppo_lightning.objectives
from sppo_lightning.objectives import Objective
from sppo_lightning.types import ObjectiveInputs


def all_objectives() -> list[type[Objective]]:
    """The concrete subclasses of Objective defined under `sppo_lightning.objectives`, by name."""
    package = sppo_lightning.objectives
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    found, waiting = set(), [Objective]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        waiting += subclasses
        found |= {cls for cls in subclasses if cls.__module__.startswith(package.__name__)}
    return sorted((cls for cls in found if not inspect.isabstract(cls)), key=lambda cls: cls.__name__)


def gradient(objective: Objective, inputs: ObjectiveInputs) -> torch.Tensor:
    """[R] the gradient of the weighted sum of the losses, which training divides by the global weight."""
    outputs = objective(inputs)
    (grad_R,) = torch.autograd.grad((outputs.weight * outputs.loss).sum(), inputs.policy_logps_R)
    return grad_R
