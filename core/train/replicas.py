"""Processes that have all weights each, and sum their gradients."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ..errors import UsageError
from .peers import LostPeerError, Peers

T = TypeVar("T")
HEARING_SECONDS = 2.0  # in which the leading process finds an error that all have
BUCKET_BYTES = 64 << 20  # of gradients that are summed by one call
LOST_PEER = (  # what gloo, NCCL and the store say of a process that is gone
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Connection refused",
    "remote process exited",
    "ncclRemoteError",
    "failed to recv",
    "gloo/transport",
)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process is gone."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_PEER)


@contextmanager
def naming_lost_peers() -> Iterator[None]:
    """Turns the errors of a communication whose other end is gone into LostPeerError."""
    try:
        yield
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        raise LostPeerError("another process has ended") from error


class Replicas(Peers):
    """Processes with all weights each."""

    def __init__(self, device: torch.device, mesh: DeviceMesh, store: Any) -> None:
        self.device, self.mesh, self.store = device, mesh, store
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    # -- data and decisions --------------------------------------------------------------------

    def rows(self, count: int) -> slice:
        if count < self.size:
            raise UsageError(
                f"--nproc {self.size}: a micro-batch has {count} rows, and each process needs one; "
                f"use fewer processes or --set train.batch={self.size}"
            )
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, numbers: list[float]) -> list[list[float]]:
        own = torch.tensor(numbers, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        with naming_lost_peers():
            dist.all_gather(found, own)
        return [each.tolist() for each in found]

    def agree(self, *asked: int) -> tuple[int, ...]:
        numbers = torch.tensor(asked, dtype=torch.int64)
        with naming_lost_peers():
            dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return tuple(numbers.tolist())

    def spread(self, make: Callable[[], T]) -> T:
        made: Any = make() if self.leads else None
        text = json.dumps(made).encode() if self.leads else b""
        size = torch.tensor(len(text))
        with naming_lost_peers():
            dist.broadcast(size, 0)
            content = torch.empty(int(size), dtype=torch.uint8)
            if self.leads:
                content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
            dist.broadcast(content, 0)
        found: T = made if self.leads else json.loads(content.numpy().tobytes())
        return found

    def share(self, value: Any) -> list[Any]:
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [int(size) for (size,) in self.gather([text.numel()])]
        own = torch.zeros(max(sizes), dtype=torch.uint8)
        own[: text.numel()] = text
        found = [torch.empty_like(own) for _ in sizes]
        with naming_lost_peers():
            dist.all_gather(found, own)
        each = zip(found, sizes, strict=True)
        return [json.loads(other[:size].numpy().tobytes()) for other, size in each]

    def wait(self) -> None:
        self.agree(0)

    def send(self, data: bytes, rank: int) -> None:
        content = torch.frombuffer(bytearray(data or b"-"), dtype=torch.uint8)
        with naming_lost_peers():
            dist.send(torch.tensor(len(data)), rank)
            dist.send(content, rank)

    def receive(self, rank: int) -> bytes:
        size = torch.tensor(0)
        with naming_lost_peers():
            dist.recv(size, rank)
            content = torch.empty(max(1, int(size)), dtype=torch.uint8)
            dist.recv(content, rank)
        return content.numpy().tobytes()[: int(size)]

    def is_heard(self) -> bool:
        """The leading process is; another one if that is silent for HEARING_SECONDS."""
        if self.leads:
            self.store.set("heard", "1")
            return True
        until = time.monotonic() + HEARING_SECONDS
        while time.monotonic() < until:
            try:
                if self.store.check(["heard"]):
                    return False
            except RuntimeError:  # the leading process kept the store, and has ended
                return False
            time.sleep(0.1)
        return True

    # -- gradients -----------------------------------------------------------------------------

    def align(self, model: nn.Module) -> None:
        with naming_lost_peers(), torch.no_grad():
            for weights in _buckets([p.data for p in model.parameters()]):
                flat = torch.cat([weight.flatten() for weight in weights])
                dist.broadcast(flat, 0)
                _copy_back(flat, weights)

    def sum(self, x: Tensor) -> Tensor:
        x = x.clone()
        with naming_lost_peers():
            dist.all_reduce(x)
        return x

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """A parameter without a gradient counts as zero, unless no process has one."""
        missing = [p.grad is None for p in parameters]
        having = torch.tensor(missing, device=self.device).logical_not().to(parameters[0].dtype)
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        with naming_lost_peers():
            all_gradients = [p.grad for p in parameters if p.grad is not None]
            for gradients in _buckets([having, *all_gradients]):
                flat = torch.cat([gradient.flatten() for gradient in gradients])
                dist.all_reduce(flat)
                _copy_back(flat, gradients)
        if any(missing):  # only then a GPU is waited for
            for p, count in zip(parameters, having.tolist(), strict=True):
                p.grad = p.grad if count else None

    # -- work that is divided ------------------------------------------------------------------

    def divide(self, work: Callable[[Tensor], Iterable[Tensor]], stack: Tensor) -> Iterable[Tensor]:
        each = -(-len(stack) // self.size)
        mine = stack[self.rank * each : (self.rank + 1) * each]
        done = stack.new_zeros(each, *stack.shape[1:])
        if len(mine):
            for matrix, result in zip(done, work(mine), strict=False):
                matrix.copy_(result)
        found = stack.new_empty(self.size * each, *stack.shape[1:])
        with naming_lost_peers():
            dist.all_gather(list(torch.split(found, each)), done)
        return found[: len(stack)]


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, some BUCKET_BYTES of one dtype at a time."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size >= BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def _copy_back(flat: Tensor, tensors: list[Tensor]) -> None:
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(parts, tensors, strict=True)])
