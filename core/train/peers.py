"""The processes that train one model together: here, one process alone (`ALONE`).

replicas.py and fsdp.py have the same methods for several. Importing this module does not import
torch, and its methods cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import TfmError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..model.sequence_model import SequenceModel

T = TypeVar("T")


class LostPeerError(TfmError):
    """Another process of the training has ended."""


class Peers:
    """The processes of a training, of which this is number `rank` of `size`."""

    rank, size = 0, 1
    shards = False  # whether each process has only a part of every weight

    @property
    def leads(self) -> bool:
        """Whether this process decides, talks, and writes the run."""
        return self.rank == 0

    # -- data and decisions --------------------------------------------------------------------

    def rows(self, count: int) -> slice:
        """The rows of a micro-batch of `count` that this process computes. UsageError if there are
        fewer rows than processes."""
        return slice(0, count)

    def gather(self, numbers: list[float]) -> list[list[float]]:
        """The numbers of every process, by rank."""
        return [numbers]

    def agree(self, *asked: int) -> tuple[int, ...]:
        """The largest of every process's numbers, at each place."""
        return asked

    def spread(self, make: Callable[[], T]) -> T:
        """What `make` returns in the leading process, in all of them: a value that JSON has."""
        return make()

    def share(self, value: Any) -> list[Any]:
        """The values of every process, by rank: values that JSON has."""
        return [value]

    def wait(self) -> None:
        """Returns when every process has called it."""

    def send(self, data: bytes, rank: int) -> None:
        """Sends bytes to the process `rank`, and returns when it receives them."""
        raise NotImplementedError("one process has no other to send to")

    def receive(self, rank: int) -> bytes:
        """The next bytes that the process `rank` sends to this one."""
        raise NotImplementedError("one process has no other to receive from")

    def is_heard(self) -> bool:
        """Whether this process is the one to report an error, which the others may have too."""
        return True

    # -- gradients -----------------------------------------------------------------------------

    def place(self, model: SequenceModel, device: torch.device, dtype: str) -> None:
        """Moves a model, whose values are equal in all processes, to their devices. dtype: of
        `TrainConfig`."""
        model.to(device)

    def align(self, model: nn.Module) -> None:
        """Gives every process the leading one's weights, bit for bit."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum of x over all processes."""
        return x

    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over all processes."""

    def whole_norm(self, norm: Tensor) -> Tensor:
        """The norm () of a vector that is distributed like the weights, from that of this
        process's part."""
        return norm

    # -- weights and states --------------------------------------------------------------------

    def local(self, x: Tensor) -> Tensor:
        """This process's part of a weight or gradient: some of its rows, or all of it."""
        return x

    def whole(self, weight: Tensor, part: Tensor) -> Tensor:
        """A tensor shaped as `weight`, from every process's part of it."""
        return part

    def rows_of(self, weight: Tensor) -> slice:
        """The rows of a weight that are this process's part."""
        return slice(0, weight.shape[0])

    def rows_held(self, weight: Tensor, rows: tuple[int, ...]) -> list[list[int]]:
        """By rank, the rows that a process has of each of the matrices that a weight holds. rows:
        of those matrices."""
        return [list(rows)] * self.size

    # -- work that is divided ------------------------------------------------------------------

    def divide(self, work: Callable[[Tensor], Iterable[Tensor]], stack: Tensor) -> Iterable[Tensor]:
        """work(stack) of N matrices (N, rows, columns), of which each process does a share."""
        return work(stack)

    def divide_parts(
        self,
        work: Callable[[Tensor], Iterable[Tensor]],
        parts: list[Tensor],
        held: list[tuple[int, ...]],
    ) -> list[Tensor]:
        """As `divide`, of matrices of one shape of which each process has some rows: its rows of
        the results. held: of each matrix, the rows of every process."""
        raise NotImplementedError("only processes that shard have parts of matrices")


ALONE = Peers()
