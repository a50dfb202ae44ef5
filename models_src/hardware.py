"""What follows from the device: how tensors get there, in which precision an encoder computes."""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from utils.errors import UserError

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device. The way to a GPU is queued behind its work; nothing waits."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def autocast(precision: str, device: torch.device | str) -> AbstractContextManager[Any]:
    """Return the context in which an encoder predicts with ``--precision``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=REDUCED[precision])


def gradient_scaler(precision: str, device: torch.device | str) -> GradScaler:
    """Return what keeps small gradients from vanishing in fp16; otherwise it does nothing."""
    return GradScaler(torch.device(device).type, enabled=precision == "fp16")


def descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Take one step down the gradient of a scalar loss; in fp16 none where it is not finite.

    ``between`` runs when the gradients are there.
    """
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    between()
    scaler.step(optimizer)
    scaler.update()


def adam(network: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Return Adam for the parameters that learn, on a GPU as one kernel (no wait for fp16)."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    on_gpu = all(parameter.is_cuda for parameter in trained)
    return torch.optim.Adam(trained, lr=learning_rate, fused=True if on_gpu else None)


def require_precision(precision: str, device: str) -> None:
    """Raise a UserError when a device does not compute in this precision."""
    if precision == "fp16" and torch.device(device).type == "cpu":
        raise UserError("--precision fp16 needs a GPU; give bf16 or fp32 on a CPU")


def require_compiler(device: str) -> None:
    """Raise a UserError when ``--compile`` lacks the C++ compiler that a CPU's code needs."""
    compiler = os.environ.get("CXX", "g++")
    if torch.device(device).type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"--compile needs a C++ compiler, and there is no {compiler}; install one")
