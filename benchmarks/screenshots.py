"""Takes a picture of a page of `tfm view` in headless Chromium, as docs/view.md has them.

python benchmarks/screenshots.py RUN --item 2 --at 'tab=space&step=12' --to docs/view-walk.png

Options before --at are those of `tfm view`. Needs Chromium and Playwright.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from _common import tfm, workspace
from view import FLAGS


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--at", default="", help="what follows # in the address")
    options.add_argument("--to", type=Path, required=True)
    options.add_argument("--dark", action="store_true")
    options.add_argument("--size", default="1280x720")
    own, of_view = options.parse_known_args()

    from PIL import Image
    from playwright.sync_api import sync_playwright

    page = workspace() / "view.html"
    tfm("view", *of_view, "-o", page, "--force", "-q", folder=Path.cwd())
    width, height = map(int, own.size.split("x"))
    with sync_playwright() as running:
        path = shutil.which("chromium")
        browser = running.chromium.launch(executable_path=path, args=list(FLAGS))
        theme = "dark" if own.dark else "light"
        tab = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=1
        )
        tab.goto(f"file://{page}#{own.at}")
        tab.wait_for_selector("body[data-ready]", timeout=60_000)
        tab.wait_for_timeout(1500)  # what moves comes to rest
        taken = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
        browser.close()
    taken.quantize(256, dither=Image.Dither.NONE).save(own.to, optimize=True)
    print(f"{own.to}: {own.to.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
