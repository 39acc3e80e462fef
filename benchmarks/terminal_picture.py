"""Renders docs/terminal.svg, the picture in the README: the terminal output of a real `tfm train`
and a real `tfm sample`.

Both commands run under a pseudo-terminal. The picture has the last state of the live progress line.
The SVG uses installed fonts only, so a viewer makes no network request; the dots of the loss curve
are drawn as shapes, since few monospace fonts have Braille characters.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shlex
import sys
from pathlib import Path

from _common import ROOT, heading, workspace

FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
HEIGHT = 50  # lines of the pseudo-terminal
LINE = 24.4  # height of a line in the SVG that rich writes; its baseline is 20 below the top
DOTS = tuple((column, row) for column in (0, 1) for row in (0, 1, 2)) + ((0, 3), (1, 3))
TEXT = re.compile(
    r'<text class="([^"]*)" x="([^"]*)" y="([^"]*)" textLength="([^"]*)"[^>]*>(.*?)</text>'
)


def record(args: list[str], columns: int, folder: Path) -> str:
    """The output of `tfm ARGS` on a terminal of `columns`, including escape sequences."""
    import fcntl
    import pty
    import struct
    import termios

    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(HEIGHT))
        os.execv(sys.executable, [sys.executable, "-m", "tfm", *args])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, columns, 0, 0))
    written = b""
    while True:
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError:  # Linux ends a pseudo-terminal with an I/O error
            break
        if not chunk:
            break
        written += chunk
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"tfm {shlex.join(args)} failed:\n{written.decode(errors='replace')}")
    return written.decode("utf-8", errors="replace")


def last_state(written: str) -> str:
    """The last state of each line, with colours but without cursor movements."""
    written = written.replace("\r\n", "\n").replace("\r\x1b[1A\x1b[2K", "")  # the bar's removal
    written = re.sub(r"\x1b\[\?25[lh]", "", written)  # the cursor hidden and shown
    written = written.replace("\u2800", " ")  # an empty Braille cell, which some fonts outline
    return "\n".join(re.split(r"\r\x1b\[2K|\r", line)[-1] for line in written.split("\n"))


def with_dots(text: re.Match[str]) -> str:
    """A text element of the SVG, with Braille characters replaced by circles."""
    kind, x, y, length, content = text.groups()
    characters = html.unescape(content)
    if not any("\u2801" <= c <= "\u28ff" for c in characters):
        return text[0]
    advance = float(length) / len(characters)
    circles = [
        f'<circle cx="{float(x) + (at + (0.25, 0.75)[column]) * advance:.1f}" '
        f'cy="{float(y) - 20 + (row + 0.5) * LINE / 4:.1f}" r="1.7"/>'
        for at, character in enumerate(characters)
        for bit, (column, row) in enumerate(DOTS)
        if "\u2800" <= character <= "\u28ff" and ord(character) - 0x2800 >> bit & 1
    ]
    plain = re.sub("[\u2800-\u28ff]", "&#160;", content)
    return text[0].replace(content, plain) + f'<g class="{kind}">{"".join(circles)}</g>'


def draw(sessions: list[tuple[list[str], str]], columns: int) -> str:
    """An SVG of the commands, each after a shell prompt, and of their output."""
    from rich.console import Console
    from rich.text import Text

    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, highlight=False)
        for at, (args, written) in enumerate(sessions):
            console.print(*[""] * at + [Text("$ tfm " + shlex.join(args), style="bold")], sep="\n")
            console.print(Text.from_ansi(last_state(written).rstrip()))
        svg = console.export_svg(title="tfm")
    svg = re.sub(r"@font-face\s*\{.*?\}", "", svg, flags=re.S)
    svg = re.sub(r"font-family:\s*[^;]+;", f"font-family: {FONTS};", svg)
    svg = re.sub(r"font-variant-east-asian:[^;]+;|<!--.*?-->", "", svg, flags=re.S)
    svg = TEXT.sub(with_dots, svg)
    return re.sub(r"[ \t]+$", "", re.sub(r"\n\s*\n+", "\n", svg), flags=re.M)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="2m", help="of the training, as `tfm train` takes it")
    parser.add_argument("--columns", type=int, default=90)
    parser.add_argument("--prompt", default="The print function")
    parser.add_argument("--length", type=int, default=40)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "terminal.svg")
    asked = parser.parse_args()
    heading()
    folder = workspace()
    train = ["train", "--task", "text"]
    if asked.budget != parser.get_default("budget"):  # the default of `tfm train`
        train += ["--budget", asked.budget]
    commands = [train, ["sample", "-p", asked.prompt, "--length", str(asked.length)]]
    sessions = [(args, record(args, asked.columns, folder)) for args in commands]
    svg = draw(sessions, asked.columns)
    for secret in (str(folder), str(ROOT), str(Path.home())):
        if secret in svg:
            sys.exit(f"{secret} is in the picture: no path of this machine belongs there")
    asked.out.write_text(svg, encoding="utf-8")
    lines = sum(len(last_state(written).splitlines()) + 2 for _, written in sessions)
    print(f"{asked.out.name}: {len(svg) / 1000:.0f} kB, about {lines} lines")


if __name__ == "__main__":
    main()
