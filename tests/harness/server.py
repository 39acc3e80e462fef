"""A process that has imported everything and runs tfm commands in forks of itself.

Most of the time of a small command is the import of torch. Each command is a process of its own
all the same, with its own files, folder, environment and signals. POSIX only.

Used by `Server`; as a script it listens to the socket whose number is its argument, and serves any
number of connections at the same time: that of `Server` and those of client.py.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import warm

LIBRARIES = (
    *("pandas", "pyarrow.pandas_compat", "statsmodels.tsa.forecasting.theta"),
    *("statsmodels.tsa.holtwinters", "PIL.GifImagePlugin", "PIL.JpegImagePlugin"),
    *("PIL.PngImagePlugin", "huggingface_hub", "tokenizers", "torch.utils._device"),
    *("sacrebleu", "sklearn.cluster", "sklearn.feature_extraction.text"),
    *("sklearn.linear_model", "sklearn.neighbors"),
)
TIMES = ("2024-01-01 12:00", "2024-01-01T12:00:00Z", "1 Jan 2024")  # their expressions are compiled
TIMEOUT = 120  # seconds
OPEN_FILES = "TFM_TEST_OPEN_FILES"  # a variable that limits the files of one command
VERBS = ("train", "eval", "sample")
START_MODULES = ("cli.main", "cli.train", "cli.training")  # have the time of the command's start


# -- the server ----------------------------------------------------------------------------------


def serve(connection: socket.socket) -> None:
    """Runs one command after another, until the other side closes the connection."""
    while True:
        head, files = _receive(connection)
        if not head:
            return
        request = json.loads(_read(connection, *struct.unpack("!Q", head)))
        child = os.fork()
        if not child:
            connection.close()
            _run(request, files)
        for each in files:
            os.close(each)
        connection.sendall(struct.pack("!q", child))
        _, status = os.waitpid(child, 0)
        connection.sendall(struct.pack("!q", os.waitstatus_to_exitcode(status)))


def listen(listener: socket.socket) -> None:
    """Serves each connection in a process of its own."""
    while True:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            serve(connection)
            os._exit(0)
        connection.close()
        while os.waitpid(-1, os.WNOHANG)[0]:  # of connections that have ended
            pass


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    numbers = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * numbers.itemsize))
    for _, _, data in ancillary:
        numbers.frombytes(data)
    return head, numbers.tolist()


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


def _run(request: dict[str, Any], files: list[int]) -> NoReturn:
    """The child: the command, with the request's standard files, folder and environment."""

    def work() -> None:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        warm.reopen_streams()
        for number in request.get("closed", ()):
            os.close(number)
            setattr(sys, ("stdin", "stdout", "stderr")[number], None)  # as Python starts
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["env"])
        if OPEN_FILES in os.environ:  # the most that this command may have open
            import resource

            most = int(os.environ.pop(OPEN_FILES))
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        own = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:0] = [path for path in own if path not in sys.path]  # as Python starts
        if "script" in request:
            sys.argv = [request["script"], *request["args"]]
            runpy.run_path(request["script"], run_name="__main__")
            return
        if request["args"][:2] == ["-m", "pytest"]:  # as of Python: the tests of a package
            import pytest

            sys.exit(pytest.main(request["args"][2:]))
        sys.argv = ["tfm", *request["args"]]
        for name in START_MODULES:
            importlib.import_module(f"tfm.{name}").COMMAND_START = time.monotonic()
        from tfm.cli.main import main

        main()

    warm.run_and_exit(work)


# -- the client ----------------------------------------------------------------------------------


class Server:
    """Starts the server process at the first command."""

    def __init__(self) -> None:
        self.connection: socket.socket | None = None
        self.listening: subprocess.Popen[bytes] | None = None
        self.folder: tempfile.TemporaryDirectory[str] | None = None

    def listen(self) -> Path:
        """The path of a socket that client.py connects to."""
        if self.folder is None:
            self.folder = tempfile.TemporaryDirectory()  # a short path, as sockets need
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"{self.folder.name}/socket")
                listener.listen(64)
                self.listening = subprocess.Popen(
                    [sys.executable, __file__, str(listener.fileno())],
                    pass_fds=(listener.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},  # cheap forks
                )
        return Path(self.folder.name, "socket")

    def client(self) -> list[str]:
        """The command `tfm` as a fork of the server."""
        script = Path(__file__).with_name("client.py")
        return [sys.executable, "-S", str(script), str(self.listen())]

    def __call__(
        self,
        args: list[str],
        folder: Path,
        env: dict[str, str],
        stdin: bytes | None,
        script: Path | None = None,
        timeout: float = TIMEOUT,
    ) -> tuple[int, bytes, bytes]:
        """Exit code (negative for a signal), stdout and stderr of a command, or of a script in
        Python with these arguments. TimeoutError after so many seconds."""
        connection = self.connection = self.connection or self._connected()
        asked = {"args": args, "folder": str(folder), "env": env}
        request = json.dumps({**asked, "script": str(script)} if script else asked).encode()
        ours: list[BinaryIO] = []
        theirs: list[int] = []
        for writable in (False, True, True):
            read, write = os.pipe()
            if writable:
                ours.append(os.fdopen(read, "rb"))
                theirs.append(write)
            else:
                ours.append(os.fdopen(write, "wb"))
                theirs.append(read)
        if stdin is None:
            os.close(theirs[0])
            theirs[0] = os.open(os.devnull, os.O_RDONLY)
        socket.send_fds(connection, [struct.pack("!Q", len(request))], theirs)
        connection.sendall(request)
        for each in theirs:
            os.close(each)
        threads = [threading.Thread(target=_feed, args=(ours[0], stdin or b""))]
        out: list[bytes] = [b"", b""]
        for number in (0, 1):
            threads.append(threading.Thread(target=_drain, args=(ours[number + 1], out, number)))
        for thread in threads:
            thread.start()
        (child,) = struct.unpack("!q", _read(connection, 8))
        alarm = threading.Timer(timeout, os.kill, (child, 9))
        alarm.start()
        (code,) = struct.unpack("!q", _read(connection, 8))
        late = not alarm.is_alive()
        alarm.cancel()
        for thread in threads:
            thread.join()
        if late:
            raise TimeoutError(f"tfm {args}: longer than {timeout} seconds")
        return code, out[0], out[1]

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.listen()))
        return connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        if self.listening is not None and self.folder is not None:
            self.listening.kill()
            self.listening.wait()
            self.folder.cleanup()


def _feed(file: BinaryIO, data: bytes) -> None:
    try:
        with file:
            file.write(data)
    except BrokenPipeError:  # the command has ended without reading it all
        pass


def _drain(file: BinaryIO, out: list[bytes], number: int) -> None:
    with file:
        out[number] = file.read()


def warm_up() -> None:
    """Does once what each command would do again."""
    warm.warm()
    for each in LIBRARIES:
        importlib.import_module(each)
    from tfm.tasks._series.forms import forms_of

    for each in TIMES:
        forms_of(each)
    start_forkserver()
    train_once()


def start_forkserver() -> None:
    """Starts the process whose forks are the processes of studies and of `bench`, once for all
    commands: each would start one of its own, which imports torch (`core.ops.processes`)."""
    from multiprocessing import forkserver

    from tfm.core.ops.processes import LEAKS

    sys.warnoptions.append(LEAKS)  # it is killed at the end
    running: Any = forkserver._forkserver  # type: ignore[attr-defined]
    running.set_forkserver_preload(["tfm.core.study.worker", "tfm.core.bench_lengths"])
    running.ensure_running()
    running.ensure_running = lambda: None  # it is no child of a command, which could not ask


def train_once() -> None:
    """Trains, scores and samples a small model in this process: the first products, kernels and
    backward pass of a process take as long as all of a small training after them. Forks find the C
    library compiled but not in use, and signals and flags as they were. By bytes: the tokenizers
    library warns in forks of a process in which its threads have run."""
    from tfm.cli.main import cli
    from tfm.core.ops import native_calls

    small = ("--task", "byte", "--size", "nano", "--steps", "1", "--set", "train.batch=2", "-q")
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    commands = [importlib.import_module(f"tfm.cli.{verb}").command for verb in VERBS]
    flags = [each.params for each in commands]  # to which those of the task are added
    with tempfile.TemporaryDirectory() as folder:
        text, run = Path(folder, "text"), str(Path(folder, "run"))
        text.write_bytes(bytes(range(256)) * 20)
        for args in (
            ["train", "--data", str(text), "--run", run, *small],
            ["eval", run, "-q"],
            ["sample", run, "--length", "2", "-q"],
        ):
            cli.main(args, prog_name="tfm", standalone_mode=False)
    native_calls.load(None)
    for each, own in zip(commands, flags, strict=True):
        each.params = own
    for number, handler in before.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)
    assert threading.active_count() == 1  # forks would wait for others forever


if __name__ == "__main__":
    warm_up()
    listen(socket.socket(fileno=int(sys.argv[1])))
