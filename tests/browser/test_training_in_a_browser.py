"""The playground as a visitor meets it: trained in Chromium, from a server or a file, on a wide or narrow screen."""

import functools
import http.server
import json
import re
import threading

import contrast
import pytest
import torch
from test_site import AXE, Reader, Silent

from peft_lessons import LoRAConfig, inject, load_adapter
from peft_lessons.models import load_tiny_gpt
from peft_lessons.training import train, windows
from tools.site import build_playground

pytestmark = pytest.mark.browser
STEPS, RATE = 20, 0.01
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("playground")
    build_playground.build(folder)
    (folder / "index.html").write_text("<!doctype html>")  # the site's, to which the page leads back
    return folder


@pytest.fixture(scope="module")
def address(folder):
    handler = functools.partial(Silent, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["http", "file"])
def visit(request, browser, folder, address):
    """A page that is ready to train, and what went wrong on it."""
    wide = request.param == "http"
    reader = Reader(browser, address if wide else folder.as_uri())
    page = reader.page
    page.set_viewport_size({"width": 1280, "height": 720} if wide else {"width": 390, "height": 844})
    page.goto(f"{reader.address}/playground{'' if wide else '-single'}.html#steps={STEPS}&rate={RATE}")
    said(page, "Ready.")
    yield page, reader.wrong
    reader.context.close()


def said(page, words, where="#status"):
    """Wait until the page says so; its policy forbids what wait_for_function does."""
    page.locator(where, has_text=re.compile(f"^{words}")).wait_for(timeout=60_000)


def expected_loss():
    """Of the last step of the same run in the package."""
    model, tokenizer = load_tiny_gpt()
    torch.manual_seed(0)
    inject(model, LoRAConfig(rank=4, alpha=8))
    ids = tokenizer.encode(build_playground.texts()["jargon"]["learn"])
    return train(model, windows(ids, batch_size=8, length=64, seed=0), steps=STEPS, learning_rate=RATE).losses[-1]


def test_a_visitor_trains_takes_the_adapter_along_and_brings_it_back(visit, tmp_path, pictures, request):
    page, wrong = visit
    page.locator("#start").focus()
    page.keyboard.press("Enter")
    said(page, "Done")
    said(page, r"[\s\S]{40}", "#after")
    assert page.locator("#loss").inner_text() == f"{expected_loss():.3f}"
    first, last = map(float, re.findall(r"Jargon File ([\d.]+) → ([\d.]+)", page.locator("#status").inner_text())[0])
    assert last < first
    assert page.locator("#before").inner_text() != page.locator("#after").inner_text()
    assert page.locator("#loss-plot polyline.now").get_attribute("points").count(",") == STEPS
    assert page.locator("#matrices canvas:visible").count() == 3

    page.locator("#save").click()
    for name in FILES:
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        download.value.save_as(tmp_path / name)
    load_adapter(load_tiny_gpt()[0], tmp_path)

    page.locator("#open").set_input_files([tmp_path / name for name in FILES])
    said(page, "The adapter is open")
    assert float(page.locator("#task-perplexity").inner_text()) == last
    (tmp_path / FILES[1]).write_bytes(b"nothing")
    page.locator("#open").set_input_files([tmp_path / name for name in FILES])
    page.get_by_text("cannot be opened: this is no safetensors file").wait_for()

    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page moves sidewards"
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        page.screenshot(path=pictures / f"playground-{request.node.callspec.id}-{theme}.png", full_page=True)
        assert contrast.faint_texts(page, "main") == []
        if AXE.exists():
            page.evaluate(AXE.read_text(encoding="utf-8"))
            found = page.evaluate("async () => (await axe.run({ preload: false })).violations")
            assert found == [], json.dumps(found, indent=1)
    assert wrong == []


def test_a_run_can_be_paused_and_a_link_that_says_nonsense_is_told(visit):
    page, wrong = visit
    page.locator("#step").click()
    said(page, "1 of", "#at")
    page.locator("#start").click()
    page.locator("#start").click()
    said(page, "Paused")
    done = page.locator("#at").inner_text()
    page.wait_for_timeout(500)
    assert page.locator("#at").inner_text() in (done, f"{int(done.split()[0]) + 1} of {STEPS}")
    page.locator("#reset").click()
    said(page, "0 of", "#at")
    page.evaluate("location.hash = '#rank=999'")
    page.reload()
    page.get_by_text("the link sets rank to 999; possible are 1, 2, 3").wait_for()
    assert wrong == []
