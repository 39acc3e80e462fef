"""Commands with files and flags of hypothesis end with an exit code and one line of error."""

import os

import pytest
from helpers import run_harness

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks of POSIX")


def test_no_input_of_a_user_is_unexpected() -> None:
    """Longer runs are made by hand: docs/reliability.md."""
    report = run_harness("fuzz.py", "--examples", 60, "--minutes", 1)
    assert report["commands"] >= 40 and len(report["verbs"]) > 8
    assert not report["failures"], "\n\n".join(report["failures"])
