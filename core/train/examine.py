"""Reads data as training does, for `tfm data`: of a request or of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..data.source import Source
from ..errors import DataError
from ..inspection.inspect import Domain
from ..plugins import find, guess_task
from ..runs.run import Run
from ..task import DataWarning, Description
from .prepare import read_data, training_items
from .request import Note, Request


@dataclass(frozen=True)
class Examined:
    """Data that was read. refused: a warning that training refuses it as it is; context: of the
    model in ids, None if none is set, or if items have their own."""

    domain: Domain
    source: str
    tokenizer_spec: str
    description: Description | None
    context: int | None
    refused: DataWarning | None = None


def examine_request(request: Request, note: Note) -> Examined:
    """The data of the flags of `tfm train`. Where training refuses it and the options of
    `Task.lenient` read it, these are set. DataError or ConfigError if nothing reads it."""
    refused = None
    try:
        data = read_data(request, note)
    except DataError as error:
        name = request.task or (
            guess_task(Source(request.data, request.column)).task if request.data else "text"
        )
        more = find("tasks", name).lenient
        if not more or all(request.task_options.get(key) == more[key] for key in more):
            raise
        try:
            options = {**request.task_options, **more}
            data = read_data(replace(request, task=name, task_options=options), note)
        except DataError:
            raise error from None
        flags = " ".join(f"--{key.replace('_', '-')}" for key in more)
        message = f"training refuses this data: {error}"
        refused = DataWarning("refused", "train", 1, 1.0, message, f"it is shown with {flags}")
    parts = data.held if data.folder is None else {}
    domain = Domain(data.task, data.tokenizer, data.train, data.sequences(), parts)
    return Examined(
        domain,
        data.source.describe(),
        data.tokenizer_spec,
        data.description,
        request.context,
        refused,
    )


def examine_run(run: Run, moved: tuple[str, ...]) -> Examined:
    """The data of a run: its training items, read again from their files (from the files `moved`,
    if they are elsewhere now), and the held-out sequences that it keeps. DataError for data that
    is gone or has changed, DamagedError for a damaged run."""
    run.check()
    task, tokenizer = run.task(), run.tokenizer()
    train = training_items(run, task, moved)
    heldout = {split: list(run.heldout(split)) for split in run.splits()}
    model = run.model_config()
    return Examined(
        Domain(task, tokenizer, train, heldout),
        run.config["data"]["about"],
        run.config["tokenizer"]["spec"],
        task.describe(train),
        None if model.encoder_layers else model.context,
    )
