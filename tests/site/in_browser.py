"""The built site in a headless Chromium, from the file system: `make test-docs` runs this, the test suite does not.

`$CHROMIUM` names the browser where it is not called chromium or google-chrome. Pictures go to build/screenshots.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

BUILD = Path(__file__).resolve().parents[2] / "build"
SITE = BUILD / "site"
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
PERMISSIVE = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    assert program, "install chromium, or name the browser in $CHROMIUM"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.fixture
def page(browser) -> Iterator[Page]:
    page, errors = browser.new_page(viewport=DESK), []
    page.on("pageerror", lambda error: errors.append(error))
    yield page
    page.close()
    assert not errors


def address(path: str) -> str:
    file, _, state = path.partition("#")
    return (SITE / file).as_uri() + (f"#{state}" if state else "")


def field(page: Page, name: str) -> Locator:
    return page.locator(f"#explorer form [name={name}]")


def column(page: Page, key: str) -> list[str]:
    return page.locator(f"#explorer table.all td[data-key={key}]").all_inner_texts()


def numbers(page: Page, key: str) -> list[float]:
    return [float(text) for text in column(page, key) if text]


class Links(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links.update(values[key] for key in ("href", "src") if values.get(key))
        self.anchors.update(values[key] for key in ("id", "name") if values.get(key))


def test_no_dead_link():
    found = {path: Links(path) for path in SITE.rglob("*.html")}
    assert len(found) > 50
    dead, counted = [], 0
    for path, page in found.items():
        if path.name == "404.html":  # its links are absolute, as a server shows it in the place of any page
            continue
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            counted += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            state = target.name == "explorer.html"  # its fragments are filters
            if not target.is_file() or (
                anchor and target in found and not state and anchor not in found[target].anchors
            ):
                dead.append(f"{path.relative_to(SITE)}: {link}")
    assert counted > 1000 and not dead, dead


def test_no_dead_link_in_the_explorer(page):
    page.goto(address("explorer.html"))
    links = page.evaluate("window.EXPLORER_ROWS.map((row) => row.page)")
    assert len(links) > 200
    anchors: dict[str, set[str]] = {}
    for link in links:
        file, _, anchor = link.partition("#")
        assert anchor in anchors.setdefault(file, Links(SITE / file).anchors), link


def test_table_sorts(page):
    page.goto(address("explorer.html"))
    top1 = numbers(page, "top1")
    assert len(top1) > 200 and top1 == sorted(top1, reverse=True)
    header = page.get_by_role("button", name="sort by params, M")
    header.press("Enter")
    assert header.evaluate("(button) => button === document.activeElement")  # drawn anew, and yet there
    params = numbers(page, "params")
    assert params == sorted(params)
    header.click()
    assert numbers(page, "params") == params[::-1]
    page.get_by_role("button", name="sort by images/s").click()  # cells that are empty come last
    texts = column(page, "speed")
    assert texts == sorted(texts, key=lambda text: -float(text or 0))


def test_filters(page):
    page.goto(address("explorer.html"))
    everything = len(column(page, "name"))
    field(page, "top1").fill("84")
    field(page, "licence").select_option("permissive")
    field(page, "params").fill("60")
    field(page, "linear").select_option("linear")
    assert 0 < len(column(page, "name")) < everything
    assert min(numbers(page, "top1")) > 84 and max(numbers(page, "params")) <= 60
    assert set(column(page, "licence")) <= PERMISSIVE and set(column(page, "linear")) == {"yes"}
    state = page.url
    assert "top1=84" in state
    shown = column(page, "name")
    page.goto("about:blank")
    page.goto(state)
    assert column(page, "name") == shown
    page.get_by_role("button", name="reset").click()
    assert len(column(page, "name")) == everything


def test_plot_answers(page):
    page.goto(address("explorer.html#top1=84"))
    points = page.locator("#explorer svg a")
    assert points.count() == len(column(page, "name"))
    point = points.nth(3)
    point.focus()
    assert page.locator("#explorer .told").inner_text() == point.locator("title").text_content()
    field(page, "x").select_option("gmacs")
    assert 0 < points.count() <= len(column(page, "name"))
    assert "GMACs" in points.first.locator("title").text_content()
    model = points.first.get_attribute("href").partition("#")[2]
    points.first.dispatch_event("click")
    page.wait_for_url("**/families/**")
    assert page.locator(f"h3#{model}").is_visible()


def test_comparison(page):
    page.goto(address("explorer.html#sort=params"))
    for index in (0, 1, 2):
        page.locator("#explorer table.all tbody input").nth(index).check()
    compared = page.locator("#explorer .compared")
    assert compared.locator("tr").first.locator("a").all_inner_texts() == column(page, "name")[:3]
    assert compared.locator("td.best[data-key=params]").first.inner_text() == column(page, "params")[0]


def test_three_clicks_to_the_fastest_permissive_model(page):
    page.goto(address("index.html"))
    page.get_by_role("link", name="The fastest above 83 %").click()
    page.wait_for_selector("#explorer table.all")
    assert min(numbers(page, "top1")) > 83 and set(column(page, "licence")) <= PERMISSIVE
    speeds = numbers(page, "speed")
    assert speeds and speeds[0] == max(speeds)
    page.screenshot(path=BUILD / "screenshots" / "fastest.png")
    name = column(page, "name")[0]
    page.locator("#explorer table.all td[data-key=name] a").first.click()
    page.wait_for_url("**/families/**")
    section = page.locator(f"h3#{name.partition('.')[0]}")
    assert section.is_visible()
    assert page.locator("td").get_by_text(name, exact=True).first.is_visible()
    command = (
        page.locator("code").filter(has_text=f"--model {name.partition('.')[0]}").filter(has_text="--data photos/")
    )
    assert command.first.is_visible()


def test_search(page):
    page.goto(address("index.html"))
    box = page.get_by_label("Search").first
    box.click()
    expect(page.locator(".md-search-result__meta")).not_to_have_text("Initializing search", timeout=20_000)
    box.press_sequentially("bi-level routing")
    page.wait_for_selector(".md-search-result__link[href*=biformer]")


def test_nothing_comes_from_the_network(page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for path in ("index.html", "explorer.html", "families/biformer.html"):
        page.goto(address(path), wait_until="load")
    assert asked and all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked


@pytest.mark.parametrize(
    "path",
    ["index.html", "explorer.html", "families/biformer.html", "guides/2-fine-tune.html", "api/layers-attention.html"],
)
@pytest.mark.parametrize("device", ["phone", "desk"])
def test_fits_the_screen(page, path, device):
    size = {"phone": PHONE, "desk": DESK}[device]
    page.set_viewport_size(size)
    page.goto(address(path))
    page.screenshot(path=BUILD / "screenshots" / f"{Path(path).stem}-{device}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
