"""The playground's steps on a graphics processor, which SwiftShader plays here: as right as any, and slow."""

import base64
import math
import re
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file
from test_playground import USUAL
from test_site import Reader
from test_training_in_a_browser import RATE, expected_loss, said
from test_training_in_a_browser import STEPS as TRAINED

from peft_lessons import LoRAConfig, full_fine_tuning, inject
from peft_lessons.models import Decoder, DecoderConfig
from peft_lessons.training import consecutive_windows, evaluate_loss, train, windows
from tools.browser import lab
from tools.browser.pages import served
from tools.site import build_playground

pytestmark = pytest.mark.browser
STEPS = 7
NONE = "this Chromium has no SwiftShader, which computes WebGPU on any machine; to run it: a Chromium that brings it"

# Makes a run. What is to go wrong: a kernel does something else, or the processor is lost after so many steps, and
# whatever it has learnt was brought back before, or not.
RUN = """async ({ config, weights, codes, settings, ids, keep, wrong }) => {
  const names = ["fastest", "graphics", "memory", "run", "safetensors"];
  const modules = await Promise.all(names.map((name) => import(`/engine/${name}.js`)));
  const { Fastest, Graphics, Memory, Run, readSafetensors } = Object.assign({}, ...modules);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  const memory = await Memory.open(codes.map(bytes));
  const graphics = await Graphics.open(memory);
  if (!graphics) return null;
  if (wrong?.kernel) graphics.pipelines[wrong.kernel] = graphics.pipelines.copy;
  const run = new Run(memory, { config, tensors: readSafetensors(bytes(weights)) }, settings, Uint16Array.from(ids));
  const fastest = new Fastest(run, () => graphics);
  const [losses, places] = [[], []];
  while (!run.done) {
    try {
      if (wrong?.lost === run.steps) {
        if (wrong.settled) await fastest.settle();
        graphics.device.destroy();
        await graphics.device.lost;
        if (wrong.asked) await fastest.settle();
      }
      losses.push(await fastest.step());
    } catch ({ message }) {
      return { losses, places, message, left: !fastest.onGraphics };
    }
    places.push(fastest.onGraphics);
    if (keep) fastest.alone = Infinity; // as if the page's own were slower
  }
  await fastest.settle();
  return { losses, places, perplexity: run.perplexity(Uint16Array.from(ids.slice(0, 512))) };
}"""


# A model of sizes that fit into no tile of threads, whose numbers are far enough from zero to learn.
SMALL = DecoderConfig(
    vocab_size=67,
    hidden_size=40,
    intermediate_size=52,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.3,
)


def small():
    torch.manual_seed(0)
    return Decoder(SMALL)


IDS = torch.randint(SMALL.vocab_size, (4096,), generator=torch.Generator().manual_seed(0)).sort().values.tolist()


@pytest.fixture(scope="module")
def chromium(browser):
    with lab.launch(browser.browser_type, lab.SOFTWARE_GRAPHICS) as found:
        yield found


@pytest.fixture(scope="module")
def run(chromium, tmp_path_factory):
    """Makes a run of the small model with these settings; gives what RUN gives."""

    def text(path):
        return base64.b64encode(path.read_bytes()).decode()

    weights = tmp_path_factory.mktemp("small") / "model.safetensors"
    save_file({name: weight.clone() for name, weight in small().state_dict().items()}, weights)
    codes = [text(build_playground.HERE / "engine" / name) for name in build_playground.CODES]
    known = {"config": asdict(SMALL), "weights": text(weights), "codes": codes, "ids": IDS}
    with served(build_playground.HERE) as address:
        page = chromium.new_page()
        page.goto(f"{address}/engine/run.js")

        def make(settings, keep=False, wrong=None):
            found = page.evaluate(RUN, known | {"settings": settings, "keep": keep, "wrong": wrong})
            if found is None:
                pytest.skip(NONE)
            return found

        yield make


def check(found, settings):
    """Each loss is the package's, and so is what the trained model does."""
    model = small()
    if settings["method"] == "full":
        full_fine_tuning(model)
    else:
        torch.manual_seed(settings["seed"])
        inject(model, LoRAConfig(rank=settings["rank"], alpha=settings["alpha"], targets=tuple(settings["targets"])))
    batches = windows(IDS, batch_size=8, length=64, seed=settings["seed"])
    history = train(model, batches, steps=settings["steps"], learning_rate=settings["rate"], seed=settings["seed"])
    torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(history.losses), atol=1e-5, rtol=0)
    perplexity = math.exp(evaluate_loss(model, consecutive_windows(IDS[:512], batch_size=8, length=64)))
    assert found["perplexity"] == pytest.approx(perplexity, rel=1e-4)


@pytest.mark.parametrize("change", [{}, {"rank": 1, "targets": ["q_proj", "v_proj"], "seed": 3}], ids=["all", "q,v"])
def test_the_rest_of_a_run_on_the_graphics_processor_is_the_packages(run, change):
    """After two steps in the page and two on both."""
    settings = USUAL | {"steps": STEPS} | change
    found = run(settings, keep=True)
    assert found["places"] == [False] * 3 + [True] * (STEPS - 3)
    check(found, settings)


def test_a_run_goes_on_in_the_page_where_the_graphics_processor_is_slower(run):
    """All weights train, the embedding's and those of the norms as well. Two steps tell which is faster."""
    settings = USUAL | {"method": "full", "rate": 0.001, "steps": STEPS}
    found = run(settings)
    assert found["places"] == [False, False, False, True, True, False, False]
    check(found, settings)


@pytest.mark.parametrize("kernel", ["softmaxBack", "clip", "adamw"])
def test_one_that_computes_something_else_makes_no_step(run, kernel):
    settings = USUAL | {"steps": 5}
    found = run(settings, wrong={"kernel": kernel})
    assert found["places"] == [False] * 5
    check(found, settings)


@pytest.mark.parametrize("asked", [False, True], ids=["in a step", "between steps"])
def test_one_that_stops_says_so(run, asked):
    found = run(USUAL | {"steps": STEPS}, keep=True, wrong={"lost": 5, "asked": asked})
    assert len(found["losses"]) == 5 and found["left"]
    assert found["message"].startswith("the graphics processor has stopped, and what it learnt last is lost")


def test_one_that_stops_when_all_is_brought_back_is_not_missed(run):
    settings = USUAL | {"steps": STEPS}
    found = run(settings, keep=True, wrong={"lost": 5, "settled": True})
    assert found["places"] == [False, False, False, True, True, False, False]
    check(found, settings)


def test_the_page_tries_it_and_says_so(chromium, training_pages):
    """Its policy lets it, and the run's last loss is the package's."""
    with served(training_pages) as address:
        reader = Reader(chromium, address)
        page = reader.page
        page.goto(f"{address}/playground.html#steps={TRAINED}&rate={RATE}")
        said(page, "Ready.")
        if page.evaluate("navigator.gpu.requestAdapter().then((found) => !found)"):
            pytest.skip(NONE)
        page.locator("#start").click()
        said(page, r"\d+ ms, on the graphics processor", "#speed")
        said(page, "Done")
        assert page.locator("#loss").inner_text() == f"{expected_loss():.3f}"
        assert re.fullmatch(r"\d+ ms", page.locator("#speed").inner_text()), "it is slower here"
        assert reader.wrong == []
        reader.context.close()
