"""Installs the packages of examples/ and of `tfm new`, as pip would: for tests, without a network.

    python install.py install -e FOLDER    # into the folder of the variable SITE

The modules and entry points are those of the package's own pyproject.toml.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def install(package: Path, site: Path) -> None:
    """Copies the modules of `package` into `site`, a folder for PYTHONPATH, with the metadata by
    which Python finds its entry points."""
    facts: dict[str, Any] = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))
    project = facts["project"]
    name = project["name"].replace("-", "_")
    metadata = site / f"{name}-{project['version']}.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(head)
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module in facts["tool"]["setuptools"]["py-modules"]:
        shutil.copy(package / f"{module}.py", site)


if __name__ == "__main__":
    for word in sys.argv[1:]:
        if word not in ("install", "-e", "-q"):
            install(Path(word), Path(os.environ["SITE"]))
