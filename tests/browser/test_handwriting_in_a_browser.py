"""The page that learns a handwriting as a visitor meets it: drawn by mouse and finger, trained in Chromium."""

import pytest
import torch
from latency import median_and_p95
from peft import PeftModel
from PIL import Image
from test_drawing_by_hand import moved, stroke, touched
from test_site import Reader, well_made
from test_training_in_a_browser import SMALL, Memory, busy, computing, said

from peft_lessons import load_adapter
from peft_lessons.models import draw, letter_ids, load_letters
from peft_lessons.tasks import TRAINED_LETTERS
from tools.browser.pages import served
from tools.site import build_playground

pytestmark = pytest.mark.browser
FILES = ("adapter_config.json", "adapter_model.safetensors")
TYPEFACE = "Courier Prime"


@pytest.fixture(scope="module")
def address(training_pages):
    with served(training_pages) as address:
        yield address


@pytest.fixture(params=["wide", "phone"])
def visit(request, browser, training_pages, address):
    """A page that is ready to train, served to a computer or from a file on a phone, and what went wrong on it."""
    phone = request.param == "phone"
    reader = Reader(
        browser, training_pages.as_uri() if phone else address, *((390, 844) if phone else ()), has_touch=phone
    )
    reader.page.goto(f"{reader.address}/handwriting{'-single' if phone else ''}.html")
    said(reader.page, "Ready.")
    yield reader.page, reader.wrong
    reader.context.close()


# The pictures of the alphabet, one after the other.
DRAWN = """() => [...document.querySelectorAll('#alphabet canvas')].map(canvas =>
    [...canvas.getContext('2d').getImageData(0, 0, 32, 32).data].filter((_, i) => i % 4 === 3))"""


def alphabet(page):
    return torch.tensor(page.evaluate(DRAWN)) / 255


def whole(page):
    """Wait until the alphabet is drawn as it should be."""
    page.wait_for_selector("#alphabet[aria-label*='strength']", timeout=60_000)


def as_ink(pictures):
    return (pictures.flatten(1) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("visit", ["wide"], indirect=True)
def test_a_typeface_is_learnt_and_taken_along(visit, tmp_path):
    """Stopped after a few steps; what the page draws is what the package draws with the adapter."""
    page, wrong = visit
    whole(page)
    before = alphabet(page)
    page.get_by_label("A typeface").check(force=True)
    page.locator("#typeface").select_option(label=f"{TYPEFACE} (typewriter)")
    page.locator("#train").click()
    said(page, "[4-9] of", "#at")
    page.locator("#train").click()
    said(page, "Done: it has learnt from 19 letters and drawn all 52")
    after = alphabet(page)
    assert (after - before).abs().mean() > 0.01
    seen = page.locator("#alphabet span").evaluate_all("all => all.map(one => one.className)")
    assert [bool(one) for one in seen] == [letter in TRAINED_LETTERS for letter in build_playground.LETTERS]

    page.locator("#save").click()
    for name in FILES:
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        download.value.save_as(tmp_path / name)
    ours = load_adapter(load_letters(), tmp_path)
    theirs = PeftModel.from_pretrained(load_letters(), tmp_path).base_model.model
    for model in (ours, theirs):
        drawn = as_ink(draw(model, letter_ids(build_playground.LETTERS))[:6])
        torch.testing.assert_close(after[:6], drawn, atol=0.02, rtol=0)  # of 255 greys

    page.locator("#picture").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="alphabet.png").click()
    download.value.save_as(tmp_path / "alphabet.png")
    with Image.open(tmp_path / "alphabet.png") as picture:
        assert picture.size[0] == 13 * 96 + 48 and picture.convert("L").getextrema() == (0, 255)

    page.locator("#alphabet").evaluate("all => all.removeAttribute('aria-label')")
    page.locator("#strength").evaluate("slider => { slider.value = 0; slider.dispatchEvent(new Event('input')); }")
    whole(page)
    assert torch.equal(alphabet(page), before), "at strength 0 it draws what the base draws"
    assert wrong == []


def test_a_hand_is_drawn_kept_and_learnt(visit, pictures, request):
    page, wrong = visit
    phone = request.node.callspec.id == "phone"
    assert page.locator("#train").get_attribute("aria-disabled") == "true"
    page.locator("#train").click(force=True)
    said(page, "It takes 10 letters at least, and 0 are drawn", "#problem")
    page.locator(".peft-square").scroll_into_view_if_needed()
    for place in range(10):
        stroke(page, touched if phone else moved, (6, 4), (6 + place, 22))
        page.locator(".peft-square").press("Enter")
    said(page, "10 letters to learn from", "#enough")
    page.wait_for_timeout(2200)  # after two seconds without an answer the square would miss its kernel
    assert page.locator("#hand .peft-lost").inner_text() == ""
    page.reload()
    said(page, "Ready")
    said(page, "10 letters to learn from", "#enough")
    page.locator("#sentence").fill("Haus 7")
    said(page, "It draws A–Z and a–z, and leaves out 7", "#strangers")
    page.locator("#train").click()
    said(page, "[1-9] of", "#at")
    page.locator("#train").click()
    said(page, "[1-9] steps in")

    assert page.locator("#alphabet .seen").count() == 10
    assert not phone or page.evaluate(SMALL) == []
    well_made(page, pictures / f"handwriting-{request.node.callspec.id}")
    assert wrong == []


@pytest.mark.parametrize("visit", ["wide"], indirect=True)
def test_two_tabs_keep_each_others_letters_and_a_full_browser_is_told(visit):
    page, wrong = visit
    other = page.context.new_page()
    other.goto(page.url)
    said(other, "Ready.")
    for tab, letters in ((page, 3), (other, 1)):
        tab.bring_to_front()
        tab.locator(".peft-square").scroll_into_view_if_needed()
        if tab is other:
            for _ in range(5):
                tab.locator(".peft-square").press("Enter")
        for place in range(letters):
            stroke(tab, moved, (6, 4), (6 + place, 22))
            tab.locator(".peft-square").press("Enter")
    page.reload()
    said(page, "4 of at least 10 letters drawn", "#enough")
    status = page.locator("#hand .peft-status")
    assert status.inner_text().strip() == "What you draw stays in this browser."
    page.evaluate(
        """() => {
            const { setItem } = Storage.prototype;
            Storage.prototype.setItem = () => { throw new Error('full'); };
            window.freed = () => { Storage.prototype.setItem = setItem; };
        }"""
    )
    square = page.locator(".peft-square")
    for _ in range(10):
        square.press("Enter")
    stroke(page, moved, (6, 4), (12, 22))
    status.get_by_text("This browser keeps what you draw only while the page is open.").wait_for()
    square.press("Enter")
    page.evaluate("freed()")
    stroke(page, moved, (6, 4), (12, 22))
    page.reload()
    said(page, "6 of at least 10 letters drawn", "#enough")
    assert wrong == []


@pytest.mark.parametrize("visit", ["wide"], indirect=True)
def test_the_page_answers_while_it_trains_and_is_small(visit):
    """As `test_the_page_answers_while_it_trains` has it. What it and its worker hold stays below 150 megabytes."""
    page, wrong = visit
    page.get_by_label("A typeface").check(force=True)
    memory = Memory(page)
    page.locator("#train").click()
    said(page, "[2-9] of", "#at")
    share = busy(page, 1500)
    with computing(page) as seconds:
        times = page.locator("#sentence").evaluate(TYPED)
    median, slow = median_and_p95(times)
    cost = 1000 * seconds[0] / len(times)
    print(f"a letter is set in {median:.0f} ms, 95 % of them in {slow:.0f}, at {cost:.0f} ms of the page's thread")
    print(f"which is busy for {share:.0%} of the time")
    kept = memory.heaps() | {"WebAssembly": memory.set_aside()}
    print(f"in memory {kept}")
    assert page.locator("#train").inner_text() == "Stop", "it has trained all the while"
    assert median <= 100 and cost < 50 and share < 0.2
    assert sum(kept.values()) < 150e6
    assert wrong == []


# From a letter that is typed to the frame in which it is set, twenty times.
TYPED = """async (field) => {
  const times = [];
  for (let i = 0; i < 20; i++) {
    const start = performance.now();
    field.value += 'a';
    field.dispatchEvent(new Event('input'));
    await new Promise((shown) => requestAnimationFrame(() => setTimeout(shown)));
    times.push(performance.now() - start);
    await new Promise((later) => setTimeout(later, 40));
  }
  return times;
}"""
