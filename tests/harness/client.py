"""The command `tfm` of tests that run shell scripts: `server.py` runs the command in a fork, with
this process's files, folder and environment; this process ends as the command does.

    python client.py SOCKET ARGUMENT...
"""

import json
import os
import signal
import socket
import struct
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def received(connection: socket.socket) -> int:
    """A number that the server sent."""
    data = b""
    while len(data) < 8:
        more = connection.recv(8 - len(data))
        if not more:
            sys.exit("the server has ended")
        data += more
    number: int = struct.unpack("!q", data)[0]
    return number


def is_closed(number: int) -> bool:
    try:
        os.fstat(number)
        return False
    except OSError:
        return True


def main() -> None:
    closed = [number for number in (0, 1, 2) if is_closed(number)]
    for _ in closed:  # a closed descriptor cannot be sent, and no other file may have its number
        os.open(os.devnull, os.O_RDWR)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    request = {
        "args": sys.argv[2:],
        "folder": os.getcwd(),
        "env": dict(os.environ),
        "closed": closed,
    }
    data = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("!Q", len(data))], [0, 1, 2])
    connection.sendall(data)
    child = received(connection)
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: os.kill(child, number))
    code = received(connection)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
