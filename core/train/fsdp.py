"""Processes that have a part of every weight each: some of its rows (FSDP2)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..model.layers import Linear
from ..model.sequence_model import SequenceModel
from .replicas import Replicas, naming_lost_peers


class Shards(Replicas):
    """Processes with a part of every weight each: some of its rows."""

    shards = True

    def place(self, model: SequenceModel, device: torch.device, dtype: str) -> None:
        """A block at a time: a device never has all weights. In bfloat16 the weights of linear
        layers, which autocast would round, travel as bfloat16, and all others as they are."""
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        mesh = self.mesh["shard"]
        rounded = MixedPrecisionPolicy()
        if dtype == "bfloat16":
            rounded = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for block in (*model.encoder, *model.blocks):
            exact = [
                module
                for module in block.modules()
                if any(True for _ in module.parameters(recurse=False))
                and not isinstance(module, Linear)
            ]
            if exact and dtype == "bfloat16":
                fully_shard(exact, mesh=mesh)
            fully_shard(block, mesh=mesh, mp_policy=rounded)
        fully_shard(model, mesh=mesh)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def align(self, model: nn.Module) -> None:
        """Nothing: a weight is in one process only."""

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Nothing: the backward pass has done it."""

    def whole_norm(self, norm: Tensor) -> Tensor:
        return self.sum(norm.square()).sqrt()

    def local(self, x: Tensor) -> Tensor:
        part: Tensor = x._local_tensor  # type: ignore[attr-defined]
        return part

    def whole(self, weight: Tensor, part: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        with naming_lost_peers():
            placed = DTensor.from_local(
                part,
                weight.device_mesh,  # type: ignore[attr-defined]
                weight.placements,  # type: ignore[attr-defined]
                run_check=False,
                shape=weight.shape,
                stride=weight.stride(),
            )
            found: Tensor = placed.full_tensor()
        return found

    def rows_of(self, weight: Tensor) -> slice:
        return slice(*self._bounds(weight.shape[0])[self.rank])

    def _bounds(self, rows: int) -> list[tuple[int, int]]:
        """(first row, end) of each process's part of a weight, as `torch.chunk` divides it."""
        each = -(-rows // self.size)
        return [(min(r * each, rows), min((r + 1) * each, rows)) for r in range(self.size)]

    def rows_held(self, weight: Tensor, rows: tuple[int, ...]) -> list[list[int]]:
        ends = list(itertools.accumulate(rows))
        return [
            [
                max(0, min(end, stop) - max(first, stop - count))
                for count, stop in zip(rows, ends, strict=True)
            ]
            for first, end in self._bounds(weight.shape[0])
        ]

    def divide_parts(
        self,
        work: Callable[[Tensor], Iterable[Tensor]],
        parts: list[Tensor],
        held: list[tuple[int, ...]],
    ) -> list[Tensor]:
        """Each matrix is gathered by one process, which does the work and sends the rows back."""
        ranks, like = range(self.size), parts[0]
        owned = [range(r, len(parts), self.size) for r in ranks]  # matrices of each process
        mine = owned[self.rank]
        arrived = self._exchange(
            [[parts[i] for i in owned[r]] for r in ranks],
            [[held[i][r] for i in mine] for r in ranks],
            like,
        )
        back: list[list[Tensor]] = [[] for _ in ranks]
        if mine:
            stack = torch.stack([torch.cat(rows) for rows in zip(*arrived, strict=True)])
            for i, done in zip(mine, work(stack), strict=True):
                for r, rows in enumerate(torch.split(done.to(like.dtype), list(held[i]))):
                    back[r].append(rows)
        counts = [[held[i][self.rank] for i in owned[r]] for r in ranks]
        returned = self._exchange(back, counts, like)
        by_matrix = {i: rows for r in ranks for i, rows in zip(owned[r], returned[r], strict=True)}
        return [by_matrix[i] for i in range(len(parts))]

    def _exchange(
        self, sent: list[list[Tensor]], counts: list[list[int]], like: Tensor
    ) -> list[list[Tensor]]:
        """Sends each process some rows, and returns those from each. sent: by receiver; counts: by
        sender, the rows of each tensor that arrives; like: has their dtype and columns."""
        columns = like.shape[1]
        flat = torch.cat([like.new_empty(0), *(rows.flatten() for each in sent for rows in each)])
        sizes = [sum(rows.numel() for rows in each) for each in sent]
        arriving = [columns * sum(each) for each in counts]
        arrived = like.new_empty(sum(arriving))
        with naming_lost_peers():
            dist.all_to_all_single(arrived, flat, arriving, sizes)
        return [
            list(torch.split(from_one.view(-1, columns), each)) if each else []
            for from_one, each in zip(torch.split(arrived, arriving), counts, strict=True)
        ]
