"""Prints the README's shell commands, one block a NUL-terminated record; `pytest` blocks last.

The README is the one source of the commands that are tested.
"""

import re
import sys
from pathlib import Path

text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
tests = [block for block in blocks if "pytest" in block]
assert len(tests) == 1, "the README names one test command"
chosen = tests if sys.argv[1:] == ["tests"] else [b for b in blocks if b not in tests]
sys.stdout.write("".join(block + "\0" for block in chosen))
