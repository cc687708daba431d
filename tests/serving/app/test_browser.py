"""The pages in a real browser: the desk by keyboard alone, the newsroom on a phone."""

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import TOKEN

TEXTS = 10
AXE = "axe-core@4.14.1"  # Deque's checks of accessibility, MPL-2.0: fetched for the tests only


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    browser_of = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with browser_of.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_default_timeout(60_000)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda line: page.faults.append(line.text) if line.type == "error" else None)
    yield page
    assert page.faults == []
    page.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program that finds faults of accessibility, fetched from npm's registry."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("npm is not installed, which fetches axe-core")
    fetched = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=120)
    if fetched.returncode:
        pytest.skip(f"npm cannot fetch {AXE}: {fetched.stderr[-200:]}")
    with tarfile.open(next(Path(folder).glob("*.tgz"))) as package:
        program = package.extractfile("package/axe.min.js")
        assert program is not None
        return program.read().decode()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_page_has_a_serious_fault_of_accessibility(
    app: Any, server: Any, page: Any, axe: str, language: str
) -> None:
    app.post("/v1/write", {"reader": "r", "kind": "title", "article": "N2"})
    app.post("/v1/events", {"reader": "r", "kind": "click", "article": "N3"})
    found: list[str] = []

    def look(where: str) -> None:
        page.evaluate(axe)  # not a script of the page, whose policy forbids foreign ones
        told = page.evaluate("axe.run()")
        assert told["passes"], "nothing was looked at"
        for fault in told["violations"]:
            if fault["impact"] in ("serious", "critical"):
                found.extend(f"{where}: {fault['id']}: {node['html']}" for node in fault["nodes"])

    for place in ("/", "/?reader=r", "/?reader=r&reading=N3", "/review"):
        page.goto(f"{app.url}{place}{'&' if '?' in place else '?'}lang={language}")
        look(place)
    page.faults.clear()  # of the status 401 of the form for the token
    page.set_extra_http_headers({"Authorization": f"Bearer {TOKEN}"})
    for place in ("/review", "/status"):
        page.goto(f"{app.url}{place}?lang={language}")
        look(f"{place}, an editor")
    page.goto(f"{app.url}/?reader=r&lang={language}")
    page.locator('button[formaction="/text"]').first.click()
    page.wait_for_url("**/text*")
    look("a written text")
    assert not found, "\n".join(found)
    page.evaluate("document.body.append(document.createElement('img'))")  # a picture without words
    look("a broken page")
    assert len(found) == 1 and "image-alt" in found[0]


def test_ten_texts_are_reviewed_without_a_mouse(app: Any, server: Any, page: Any) -> None:
    server.texts = [(f"Aliens sank ferry {place}", 0.3, place / 20, True) for place in range(TEXTS)]
    app.post("/v1/write", {"reader": "r", "kind": "title", "article": "N2"})
    page.goto(f"{app.url}/status")  # a page that needs a token shows the form for it
    page.faults.clear()  # of the status 401
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.get_by_label("Editor's token").focus()
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Status").wait_for()
    page.goto(f"{app.url}/review")
    page.keyboard.press("j")
    page.keyboard.press("k")
    for place in range(TEXTS):
        page.get_by_text(f"Waiting texts: {TEXTS - place}").wait_for()
        page.locator(".review:focus").first.wait_for()  # the script has come, and hears keys
        if place == 1:
            page.keyboard.press("e")
            page.keyboard.press("Control+A")
            page.keyboard.type("The ferry sank")
            page.keyboard.press("Enter")
        else:
            page.keyboard.press("a" if place % 2 else "r")
    page.get_by_text("No text waits.").wait_for()
    found = {
        status: app.get(f"/v1/reviews?status={status}", token=TOKEN)["reviews"]
        for status in ("approved", "rejected")
    }
    assert {status: len(reviews) for status, reviews in found.items()} == {"approved": 5, "rejected": 5}
    assert [review["edited"] for review in found["approved"] if review["edited"]] == ["The ferry sank"]


def test_enter_in_a_note_decides_nothing(app: Any, server: Any, page: Any) -> None:
    server.texts = [("Aliens sank the ferry", 0.3, 0.5, True)]
    app.post("/v1/write", {"reader": "r", "kind": "title", "article": "N2"})
    page.set_extra_http_headers({"Authorization": f"Bearer {TOKEN}"})
    page.goto(f"{app.url}/review")
    page.get_by_label("Note").fill("hm")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert len(app.get("/v1/reviews", token=TOKEN)["reviews"]) == 1


def test_the_newsroom_on_a_phone_changes_with_a_click(app: Any, page: Any) -> None:
    page.goto(app.url)
    page.get_by_label("Reader").fill("r-1")
    page.keyboard.press("Enter")
    first = page.locator(".feed > li h3").first
    title = first.inner_text()
    page.get_by_role("button", name=f"Read: {title}").click()
    page.locator(".reading").wait_for()
    assert page.locator(".reading h2").inner_text() == title
    assert title not in page.locator(".feed h3").all_inner_texts()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="中文").click()
    page.get_by_role("heading", name="给 r-1 的推荐").wait_for()
