"""The page of `tfm view` in Chromium: what it draws, computes and answers to keys and clicks."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from helpers import DOMAINS
from PIL import Image
from test_capture import VARIANTS
from test_view import data_of
from test_view_packing import view_of

from tfm.core.view.packing import Plan
from tfm.core.view.page import View

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TENSORS = """names => names.map((name) => {
  const { shape, values } = window.tfmView.page.tensor(name);
  const bytes = new Uint8Array(Float32Array.from(values).buffer);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return [shape, btoa(text)];
})"""
SET = """async (selections) => {
  for (const each of selections) {
    window.tfmView.state.set(each);
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  }
}"""  # two frames each: what it asked to be drawn is drawn
VIEWPORT = {"width": 1280, "height": 720}
TABS = ("io", "space", "matrix", "flow", "code", "checks")
EVERYTHING = Plan()
RECOMPUTED = Plan(recompute=True, bits=16)
ONE_OF_A_KIND = ("transformer", "lstm", "cnn", "attention-rnn", "encoder-decoder")
SMALLEST = Plan(True, False, 8, hidden=8, last=8, blocks=(1,))

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright here")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def window(browser: Any) -> Any:
    """A window with the usual settings. Its tabs share nothing that a page keeps."""
    return browser.new_context(viewport=VIEWPORT)


@pytest.fixture(scope="module")
def tab(window: Any) -> Any:
    """One tab, in which a test opens one page after another."""
    return window.new_page()


class Opened:
    """A page in a tab. It fails on any message, request or error of the page."""

    def __init__(self, tab: Any, html: bytes, folder: Path) -> None:
        self.path = folder / f"{len(list(folder.iterdir()))}.html"
        self.path.write_bytes(html)
        self.tab, self.devtools = tab, None
        self.problems: list[str] = []
        self.listeners = {
            "console": lambda message: self.problems.append(message.text),
            "pageerror": lambda error: self.problems.append(str(error)),
            "dialog": lambda dialog: self.problems.append(dialog.message),
            "request": self._requested,
        }
        for event, listener in self.listeners.items():
            self.tab.on(event, listener)

    def _requested(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.problems.append(request.url)

    def go(self, where: str = "") -> Opened:
        self.tab.bring_to_front()  # a tab behind another draws one frame a second
        self.tab.goto(f"file://{self.path}#{where}")
        self.tab.wait_for_selector("body[data-ready]", timeout=20_000)
        return self

    def set(self, *selections: dict[str, Any]) -> None:
        """Makes one selection after another, each drawn before the next."""
        self.tab.bring_to_front()
        self.tab.evaluate(SET, selections)

    def show(self, tab: str) -> str:
        """Chooses a tab and returns the text of its panel."""
        self.set({"tab": tab})
        return str(self.tab.inner_text(f"#panel-{tab}"))

    def selection(self) -> dict[str, Any]:
        return dict(self.tab.evaluate("() => ({ ...window.tfmView.state.selection })"))

    def tensors(self, names: Iterable[str]) -> dict[str, Any]:
        names = list(names)
        return {
            name: np.frombuffer(base64.b64decode(data), np.float32).reshape(shape)
            for name, (shape, data) in zip(names, self.tab.evaluate(TENSORS, names), strict=True)
        }

    def more_colours(self, selector: str, than: int) -> bool:
        """Whether an element shows more than so many colours, counted up to there."""
        asked = {
            "format": "png",
            "optimizeForSpeed": True,
            "clip": {**self.tab.locator(selector).bounding_box(), "scale": 1},
        }
        self.devtools = self.devtools or self.tab.context.new_cdp_session(self.tab)
        data = base64.b64decode(self.devtools.send("Page.captureScreenshot", asked)["data"])
        return Image.open(io.BytesIO(data)).convert("RGB").getcolors(than) is None

    def close(self) -> None:
        for event, listener in self.listeners.items():
            self.tab.remove_listener(event, listener)
        if self.devtools is not None:
            self.devtools.detach()
        assert not self.problems, self.problems


@pytest.fixture
def open_page(browser: Any, tab: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens pages in the tab, or with settings of its own in a window of its own."""
    opened: list[Opened] = []
    windows: list[Any] = []

    def start(html: bytes, where: str = "", **settings: Any) -> Opened:
        if settings:
            windows.append(browser.new_context(**{"viewport": VIEWPORT, **settings}))
        opened.append(Opened(windows[-1].new_page() if settings else tab, html, tmp_path))
        return opened[-1].go(where)

    yield start
    try:
        for each in opened:
            each.close()
    finally:
        for each in windows:
            each.close()


# -- every architecture ----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=VARIANTS)
def architecture(request: pytest.FixtureRequest) -> View:
    """Shared: tests must not change it."""
    return view_of(request.param)


@pytest.fixture(scope="module")
def whole(
    window: Any, architecture: View, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    """The page of an architecture with all its numbers, in a tab of its own."""
    folder = tmp_path_factory.mktemp("whole")
    page = Opened(window.new_page(), architecture.page(EVERYTHING), folder).go()
    yield page
    page.close()
    page.tab.close()


def test_the_page_holds_the_numbers_of_the_model(
    open_page: Any, architecture: View, whole: Opened
) -> None:
    """Decoded or computed in the browser, each tensor is as close as the page states."""
    view = architecture
    recomputed = open_page(view.page(RECOMPUTED))
    for plan, page in ((EVERYTHING, whole), (RECOMPUTED, recomputed)):
        records = view.pack(plan).records
        for tensor, found in page.tensors(records).items():
            record = records[tensor]
            true = view.tensors.get(tensor, view.weights.get(tensor, view.last))
            true = true[:, view.top] if tensor == "logits" else true
            finite = np.isfinite(true)
            assert (np.isfinite(found) == finite).all(), tensor
            error = np.abs(found[finite] - true[finite]).max(initial=0)
            assert error <= record["error"] * 1.01 + 2e-6 * max(1, record["largest"]), tensor
    assert not whole.problems, whole.problems


def look_at_everything(page: Opened, view: View, colours: int = 0) -> None:
    """Every panel, of more than so many colours, and every layer in space and as matrices."""
    for tab in TABS:
        assert len(page.show(tab)) > 40, tab
        assert not colours or page.more_colours(f"#panel-{tab}", colours), tab
    for row in view.data["flow"]:
        for layer in row["layers"]:
            at = {"stack": row["stack"], "block": row["block"], "part": layer["part"]}
            page.set({**at, "tab": "space"}, {"tab": "matrix"})
    page.show("flow")
    assert not page.problems, page.problems


def test_every_panel_shows_every_architecture(architecture: View, whole: Opened) -> None:
    look_at_everything(whole, architecture, colours=12)


@pytest.mark.parametrize("architecture", ONE_OF_A_KIND, indirect=True)
def test_every_panel_shows_the_smallest_page(open_page: Any, architecture: View) -> None:
    look_at_everything(open_page(architecture.page(SMALLEST)), architecture)


# -- domains ---------------------------------------------------------------------------------------


def of_domain(domains: Path, task: str, *flags: object) -> bytes:
    return Tfm(domains, {"TFM_QUIET": "1"})("view", task, *(flags or ("--item", 1))).out


@pytest.mark.parametrize("task", DOMAINS)
def test_every_panel_shows_every_domain(open_page: Any, domains: Path, task: str) -> None:
    html = of_domain(domains, task)
    page, data = open_page(html), data_of(html)
    strip = page.tab.locator(".strip").last
    assert strip.locator(".strip-token").count() == len(data["input"]["ids"])
    for tab in TABS:
        assert len(page.show(tab)) > 40
        assert page.more_colours(f"#panel-{tab}", 12)
    page.tab.keyboard.press("t")
    page.set(*({"tab": tab} for tab in TABS))


def test_bytes_have_their_hexadecimal_form(open_page: Any, domains: Path) -> None:
    page = open_page(of_domain(domains, "byte", "-p", "a\u00e9"), "tab=io")
    text = page.tab.inner_text("#panel-io")
    assert all(each in text for each in ("61", "c3", "a9"))


def test_values_of_a_series_stand_in_its_own_units(open_page: Any, domains: Path) -> None:
    html = of_domain(domains, "series", "-p", "series.csv")
    page, data = open_page(html), data_of(html)
    shown = page.tab.locator(".strip-token").all_inner_texts()[1:]
    values = [float(text.replace("−", "-")) for text in shown]
    np.testing.assert_allclose(values, data["domain"]["values"], atol=0.06)
    walk = np.loadtxt(domains / "series.csv", delimiter=",", skiprows=1, usecols=1)[-16:]
    np.testing.assert_allclose(values, walk, atol=0.5)


def test_a_picture_is_drawn_as_it_is(open_page: Any, domains: Path) -> None:
    """The large picture has the shades of the item, read back from the screen."""
    html = of_domain(domains, "image")
    page, data = open_page(html, "tab=io"), data_of(html)
    page.tab.locator("#panel-io").get_by_text("picture", exact=True).first.click()
    canvas = page.tab.locator("#panel-io canvas").first
    shown = Image.open(io.BytesIO(canvas.screenshot())).convert("L")
    height, width = data["domain"]["height"], data["domain"]["width"]
    pixels = np.array(data["domain"]["pixels"]).reshape(height, width)
    for row in range(height):
        for column in range(width):
            at = (
                int((column + 0.2) * shown.width / width),
                int((row + 0.2) * shown.height / height),
            )
            assert abs(int(shown.getpixel(at)) - int(pixels[row, column])) <= 3, (row, column)


def test_colours_of_the_page_are_colours_of_a_canvas(open_page: Any) -> None:
    """In both themes: a canvas keeps its old colour where it cannot read the new one."""
    page = open_page(view_of("transformer").page(EVERYTHING))
    ask = """name => {
      const context = document.createElement("canvas").getContext("2d");
      context.fillStyle = "#010203";
      context.fillStyle = tone(name);
      return context.fillStyle;
    }"""
    names = ("--back", "--raised", "--line", "--text", "--quiet", "--accent", "--warm")
    light = [page.tab.evaluate(ask, name) for name in names]
    page.tab.keyboard.press("t")
    dark = [page.tab.evaluate(ask, name) for name in names]
    assert "#010203" not in light + dark
    assert all(one != other for one, other in zip(light, dark, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_in_space_stand_out_from_its_back(open_page: Any, theme: str) -> None:
    page = open_page(view_of("transformer").page(EVERYTHING), "tab=space", color_scheme=theme)
    colours = page.tab.evaluate("() => spaceColours(document.body)")
    assert all(value for value in colours.values())

    def light(name: str) -> float:
        return sum(float(each) for each in re.findall(r"[\d.]+", colours[name])[:3]) / 3

    for name in ("text", "quiet", "accent", "edge", "flow"):
        assert abs(light(name) - light("back")) > 40, name
    assert (light("back") > 128) is (theme == "light")


def test_a_constant_series_is_shown(open_page: Any, domains: Path) -> None:
    (domains / "const.csv").write_text("time,value\n" + "".join(f"{n},7.5\n" for n in range(90)))
    tfm = Tfm(domains, {"TFM_QUIET": "1"})
    train = ("train", "--task", "series", "--data", "const.csv", "--history", 16, "--horizon", 4)
    tfm(*train, "--size", "nano", "--steps", 1, "--run", "const")
    html = of_domain(domains, "const")
    page = open_page(html)
    page.set(*({"tab": tab} for tab in TABS))
    lens = data_of(html)["lens"]
    assert all(p > 0 for level in lens["p"] for each in level for p in each)


def test_hostile_tokens_are_shown_and_not_run(open_page: Any) -> None:
    view = view_of("transformer")
    ids = view.data["input"]["ids"]
    names = [
        "</script><script>alert(1)</script>",
        "\x07\x1b[31m",
        "\u202eabc",
        "<img src=x onerror=alert(1)>",
        "\n",
    ]
    for id, name in zip(dict.fromkeys(ids), names, strict=False):
        view.data["labels"][str(id)] = name
    page = open_page(view.page(EVERYTHING))
    strip = page.tab.inner_text("#tokens")
    for shown in ("</script><script>alert(1)</script>", r"\x07\x1b[31m", r"\u202eabc", "⏎"):
        assert shown in strip
    page.set(*({"tab": tab} for tab in TABS))


# -- keys, clicks, addresses -----------------------------------------------------------------------


def test_every_panel_has_an_address(open_page: Any) -> None:
    page = open_page(view_of("transformer").page(EVERYTHING))
    for tab in TABS:
        page.go(f"tab={tab}&block=1&head=2&query=5")
        found = page.selection()
        assert (found["tab"], found["block"], found["head"], found["query"]) == (tab, 1, 2, 5)
        assert page.tab.is_visible(f"#panel-{tab}")
    page.go("tab=nonsense&block=99&query=-3&head=x&row=7")
    found = page.selection()
    assert (found["tab"], found["block"], found["head"]) == ("io", 1, 0)


def test_keys_move_the_selection(open_page: Any) -> None:
    page = open_page(view_of("transformer").page(EVERYTHING), "tab=io&query=5")
    press = page.tab.keyboard.press
    for number, tab in enumerate(TABS, 1):
        press(str(number))
        assert page.selection()["tab"] == tab
    press("ArrowLeft")
    press("]")
    press("+")
    press("d")
    found = page.selection()
    assert (found["query"], found["block"], found["head"], found["part"]) == (4, 1, 0, "ffn")
    press("[")
    press("a")
    press("+")
    press("n")
    found = page.selection()
    assert (found["block"], found["step"]) == (0, 1)
    assert f"query={found['query']}" in page.tab.evaluate("location.hash")
    press("?")
    assert page.tab.is_visible("#help")
    press("Escape")
    press("t")
    assert page.tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_clicks_choose_a_token_and_a_line(open_page: Any) -> None:
    page = open_page(view_of("encoder-decoder").page(EVERYTHING), "tab=code")
    page.tab.locator(".strip").nth(1).locator(".strip-token").nth(3).click()
    found = page.selection()
    assert (found["stack"], found["query"]) == ("blocks", 3)
    page.tab.locator(".line", has_text="softmax").last.click()
    assert "pattern" in page.tab.inner_text(".code-caption")
    page.tab.locator(".node.cross").first.click()
    assert page.selection()["part"] == "cross"


def test_the_walk_visits_every_step(open_page: Any) -> None:
    view = view_of("transformer")
    page = open_page(view.page(EVERYTHING), "tab=space")
    assert "The whole pass" in page.tab.inner_text("#panel-space")
    for number, step in enumerate(view.data["walk"]):
        page.tab.keyboard.press("n")
        assert page.selection()["step"] == number
        shown = page.tab.inner_text("#panel-space")
        assert step["title"] in shown and step["caption"] in shown
    page.tab.keyboard.press("n")
    assert page.selection()["step"] == len(view.data["walk"]) - 1


# -- screens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(open_page: Any, theme: str) -> None:
    settings = {"viewport": {"width": 390, "height": 800}, "color_scheme": theme}
    page = open_page(view_of("encoder-decoder").page(EVERYTHING), **settings)
    for tab in TABS:
        page.show(tab)
        wide = f"document.getElementById('panel-{tab}').scrollWidth"
        assert page.tab.evaluate(wide) <= 390, tab
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) is (theme == "dark")
    assert os.path.exists(page.path)


def test_next_tokens_follow_from_the_logits(open_page: Any) -> None:
    """The likeliest next id of the panel is that of the model."""
    view: View = view_of("transformer")
    best = int(view.last.argmax())
    view.data["labels"][str(best)] = "likeliest"
    page = open_page(view.page(EVERYTHING))
    weights = np.exp(view.last.astype(np.float64) - view.last.max())
    share = float(weights.max() / weights.sum())
    text = page.show("io")
    assert "likeliest" in text
    assert f"{100 * share:.1f}\u00a0%" in text or f"{100 * share:.0f}\u00a0%" in text
