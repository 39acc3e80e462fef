"""The start of a training: from a request to a new run and the state of its first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ..data.scratch import streamed
from ..errors import UsageError
from ..runs.run import Run
from ..task import Task
from .budget import Plan, make_plan
from .peers import ALONE, Peers
from .prepare import Prepared, prepare
from .request import Deadline, Note, Request
from .run_config import describe_config, stream_copies
from .state import State, fresh_state


def start(
    request: Request,
    paths: Callable[[str], Iterable[Path]],
    cache: Path,
    note: Note,
    deadline: Deadline | None = None,
    argv: list[str] | None = None,
    origins: Mapping[str, str] | None = None,
    prepare: Callable[[Request, Note], Prepared] = prepare,
    peers: Peers = ALONE,
) -> tuple[Run, Task, Plan, State]:
    """Prepares the data, makes the plan, initialises the weights and creates the run, at the first
    of `paths` that is free. paths: from the task's name.

    deadline: see `make_plan`; cache: a folder for what later trainings can reuse; argv, origins: of
    the command, for the run's config. UsageError, ConfigError or DataError if the request cannot be
    met, or no path is free.
    """
    prepared = prepare(request, note)
    if prepared.folder is not None:
        prepared.folder.shards.check(cache, note)
    plan = make_plan(request, prepared, deadline, cache, note)
    first_id = prepared.task.first_id(prepared.tokenizer)
    peers.rows(plan.train.batch)
    state = fresh_state(plan, request.init, first_id, peers)
    m, t = plan.model, plan.train
    for name in request.sets.get("model", {}):
        if not m.uses(name):
            note(f"model.{name} has no effect: no layer of this model ({m.mixers}) uses it")
    note(
        f"model: {request.arch} {plan.size}, {state.model.parameter_count():,} parameters, "
        f"{m.layers} layers of width {m.width}, context {m.context}, "
        f"vocabulary {m.vocab_size:,}; "
        f"{t.steps:,} steps of {t.batch * t.accumulate * m.context:,} tokens in {t.dtype} "
        f"on {plan.device}{about_peers(peers)}"
    )
    if t.lora:
        trained = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
        note(f"training {trained:,} parameters of adapters of rank {t.lora} (LoRA)")
    config = describe_config(request, prepared, plan, list(argv or []), dict(origins or {}))
    streams = {name: streamed(path) for path, name in stream_copies(request.data).items()}
    taken: UsageError | None = None
    for path in paths(prepared.task.name):
        try:
            run = Run.create(
                path, config, prepared.tokenizer, prepared.heldout, streams, state.frozen()
            )
            return run, prepared.task, plan, state
        except UsageError as error:  # another process has taken the name
            if not path.exists():
                raise
            taken = error
    raise taken or ValueError("no path for the run")


def about_peers(peers: Peers) -> str:
    """The processes of a training, as the end of a message about it; empty for one."""
    if peers.size == 1:
        return ""
    return f" by {peers.size} processes" + (", sharded" if peers.shards else "")
