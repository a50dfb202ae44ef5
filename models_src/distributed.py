"""Several processes that train one model together, as torchrun starts them.

Each process, a rank, holds both encoders and works on its own part of each batch; what is exchanged
makes a step that of the whole batch. Every rank has to call these functions, in the same order. A
process that is alone gets back what it gives. When a rank fails, torchrun ends the others.

Axes: N rows of a rank, I images of a batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from utils.processes import process_count

PATIENCE = timedelta(days=30)  # a rank that waits for the first one's evaluation must not give up


@contextmanager
def joined_ranks(device: str) -> Iterator[None]:
    """Be one of the ranks that torchrun started: gloo on the CPU, NCCL on GPUs."""
    if process_count() == 1:
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Return the number of ranks."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return which of the ranks this is, from 0; the first one writes files and messages."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def any_rank(*flags: bool) -> list[bool]:
    """Return of each flag whether it is set on any rank. GPUs are not waited for."""
    votes = sum_over_ranks(torch.tensor(flags, dtype=torch.int32))
    return [bool(vote) for vote in votes]


def own_span(count: int) -> range:
    """Return this rank's even share of ``count`` things: a run of neighbours, perhaps of none."""
    return range(count * rank() // world_size(), count * (rank() + 1) // world_size())


def own_images(count: int) -> np.ndarray:
    """Return which images of a batch are this rank's, (I,) bool.

    Ranks get even runs of neighbours, of at least two images, which batch normalisation needs;
    where there are too few for all, the last ranks get none.
    """
    parts = np.array_split(np.arange(count), max(1, min(world_size(), count // 2)))
    own = np.zeros(count, dtype=bool)
    if rank() < len(parts):
        own[parts[rank()]] = True
    return own


def pad_to_two(images: Tensor) -> Tensor:
    """Return a rank's images, filled up with grey ones where it has fewer than two.

    So a rank whose images cannot be read, or that has none, keeps in step with the others.
    """
    missing = 2 - len(images)
    if world_size() == 1 or missing <= 0:
        return images
    return torch.cat([images, images.new_zeros(missing, *images.shape[1:])])


def row_counts(count: int) -> list[int]:
    """Return the numbers of all ranks, in their order. GPUs are not waited for."""
    counts = torch.zeros(world_size(), dtype=torch.int64)
    counts[rank()] = count
    return [int(number) for number in sum_over_ranks(counts)]


def share_of_rows(count: int) -> float:
    """Return a rank's share of all rows as a multiple of an even share.

    With it as weight, the mean over ranks of the means over their rows is the mean over all rows.
    """
    return count * world_size() / sum(row_counts(count))


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, in their order: (N, ...) on each -> (sum of N, ...)."""
    if world_size() == 1:
        return rows
    counts = row_counts(len(rows))
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum over ranks of tensors of one shape; it may take the place of ``values``."""
    if world_size() > 1:
        distributed.all_reduce(values)
    return values


def replicated(network: nn.Module) -> nn.Module:
    """Return a network with the first rank's weights, whose gradients are averaged over ranks.

    Running statistics are not exchanged, see ``average_statistics``.
    """
    if world_size() == 1:
        return network
    return DistributedDataParallel(network, broadcast_buffers=False)


def average_gradients(network: nn.Module) -> None:
    """Replace each gradient by its mean over ranks; for small networks, all at once."""
    _average([weight.grad for weight in network.parameters() if weight.grad is not None])


def average_statistics(network: nn.Module) -> None:
    """Replace the running statistics of batch normalisation by their means over ranks."""
    if network.training:
        _average([buffer for buffer in network.buffers() if buffer.is_floating_point()])


def _average(tensors: list[Tensor]) -> None:
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    mean = sum_over_ranks(flat) / world_size()
    for tensor, part in zip(tensors, mean.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
