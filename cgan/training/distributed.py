"""Distributed training: ranks, all-reduce, barrier, broadcast, and batch norm over the batches of all processes.

torchrun starts the processes and sets rank and world size in the environment. A single process is a world of size 1, in
which these operations do nothing.
"""

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # its functions have the group as a default argument: before there is one
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cgan.config import Device
from cgan.errors import GateError, UserError
from cgan.text import counted

TIMEOUT = timedelta(hours=2)
"""Time that the other processes wait for the one that evaluates or prepares photos."""


@dataclass(frozen=True)
class World:
    """The world of a training: its size and the rank of this process."""

    rank: int = 0
    local_rank: int = 0
    """Rank among the processes of this machine, and index of the process's GPU."""
    size: int = 1

    @property
    def main(self) -> bool:
        """True for rank 0, which writes, evaluates and reports."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's shard of a tensor along its first axis."""
        return batch[self.rank :: self.size]

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes (all-reduce)."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until all processes have called it (barrier)."""
        if self.size > 1:
            dist.barrier()

    def from_main(self, value: Any) -> Any:
        """Return the value of rank 0 in all processes (broadcast); it must be picklable."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    @contextmanager
    def main_of_machine_first(self) -> Iterator[None]:
        """Run the block in one process of each machine before the others, so that it fills a cache for them."""
        if self.local_rank > 0:
            self.wait()
        yield
        if self.local_rank == 0:
            self.wait()

    def parallel(self, network: nn.Module) -> nn.Module:
        """Return the network with its gradients averaged over all processes."""
        if self.size == 1:
            return network
        # No broadcast of buffers: batch norm's statistics are equal already, and networks run several times per step.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before torch 2.15
        options: dict[str, Any] = {name: False}
        return DistributedDataParallel(network, **options)

    def synchronize_batch_norm(self, network: nn.Module) -> nn.Module:
        """Return the network with batch norm over the batches of all processes, as if they were one batch."""
        if self.size == 1:
            return network
        if next(network.parameters()).is_cuda:
            converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
            return converted
        for layer in network.modules():
            if type(layer) is nn.BatchNorm2d:
                layer.__class__ = _SyncBatchNorm2d
        return network


def this_process() -> World:
    """Return the world and rank of this process from torchrun's environment variables."""
    return World(*(int(os.environ.get(name, default)) for name, default in _ENVIRONMENT))


@contextmanager
def joined(device: Device) -> Iterator[World]:
    """Yield the world in torchrun's environment variables; its processes are connected within the block.

    Args:
        device: "cuda" or "cpu"; with cuda each process uses the GPU of its local rank.

    Raises:
        UserError: more processes than GPUs.
        GateError: another process has ended.
    """
    world = this_process()
    if device == "cuda":
        found = torch.cuda.device_count()
        if world.local_rank >= found:
            raise UserError(
                f"process {world.local_rank} finds only {counted(found, 'GPU')}; start at most as many processes"
            )
        torch.cuda.set_device(world.local_rank)
    if world.size == 1:
        yield world
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield world
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise
        reason = str(error).strip().splitlines()[0]
        raise GateError(
            f"process {world.rank} lost another process ({reason}); its message, above or below, says why"
        ) from error
    finally:
        # It also ends gloo's threads, once nothing refers to the group. They release the tensors of finished operations
        # later, for which they need Python's lock; a thread that requests the lock while Python shuts down aborts.
        dist.destroy_process_group()


_ENVIRONMENT = (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1"))


class _AllSum(torch.autograd.Function):
    """Sum over all processes, differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total: Tensor = _AllSum.apply(gradients[0])
        return total


class _SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes on the CPU; nn.SyncBatchNorm is for GPUs alone."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        values = x.double()  # so that only a single process's rounding differs
        count = _AllSum.apply(values.new_tensor(values.numel() / values.shape[1]))
        mean = _AllSum.apply(values.sum(dim=(0, 2, 3))) / count
        centered = values - mean[:, None, None]
        variance = _AllSum.apply(centered.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean), momentum)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        result: Tensor = centered * scale[:, None, None] + self.bias[:, None, None]
        return result.to(x.dtype)
