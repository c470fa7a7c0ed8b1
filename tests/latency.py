"""How long a slider's figure takes from a key press to the changed picture, in a real browser."""

import statistics
from typing import Any

# The key's own time stamp is when the browser got it; an <svg> has changed when its paths have, an <img> when it has
# loaded the new picture.
RECORD = """(figure) => {
  if (figure.look) return;
  const image = figure.querySelector(":scope > img");
  figure.look = () => (image ? image.src : figure.querySelector(":scope > svg").outerHTML);
  let pressed;
  const changed = () => figure.arrived(performance.now() - pressed);
  figure.addEventListener("keydown", (event) => {
    pressed = event.timeStamp;
    figure.story.push(`${event.key} reached ${event.target.type}`);
  }, true);
  figure.addEventListener("input", (event) => figure.story.push(`value ${event.target.value}`), true);
  if (image) {
    image.addEventListener("load", changed);
    image.addEventListener("error", () => figure.story.push("the new picture is none"));
  } else new MutationObserver(changed).observe(figure, { attributes: true, attributeFilter: ["d"], subtree: true });
}"""
# Waiting in the page itself: asking again and again would keep it busy, and slow what is measured.
AWAIT = """(figure) => {
  figure.story = [];
  figure.before = figure.look();
  figure.latency = new Promise((resolve) => {
    figure.arrived = resolve;
    setTimeout(() => resolve(null), 10_000);
  });
}"""
CHANGED = "(figure) => figure.look() !== figure.before"


def key_to_picture(slider: Any, presses: int = 60) -> list[float]:
    """Milliseconds of each press of an arrow key, one after the other: right to the end, then left again, and so on.

    Args:
        slider: a Playwright locator of one `<input type=range>` of a sweep or live figure, with at least two values
            that look different.
        presses: how many.

    Raises:
        TimeoutError: where a press changes nothing within ten seconds: further presses would wait as long. A key that
            never reached the figure, since JupyterLab took the focus meanwhile, is pressed once more: it measured
            nothing. So is one whose picture has changed without the browser's saying so.
    """
    figure = slider.locator("xpath=ancestor::figure").element_handle()
    figure.evaluate(RECORD)
    key, times = "ArrowRight", []
    for _ in range(presses):
        for _ in range(2):
            value, low, high = slider.evaluate("(input) => [input.value, input.min, input.max].map(Number)")
            key = {low: "ArrowRight", high: "ArrowLeft"}.get(value, key)
            figure.evaluate(AWAIT)
            slider.press(key)
            taken = figure.evaluate("(figure) => figure.latency")
            story = figure.evaluate("(figure) => figure.story")
            if taken is not None or (story and not figure.evaluate(CHANGED)):
                break
        if taken is None:
            why = ", ".join(story) or "the key never reached the figure"
            look = figure.evaluate("(figure) => `${figure.className}: ${figure.innerText}`")
            raise TimeoutError(f"{key} at {value:g}, of {low:g} to {high:g}, changes nothing: {why}; {look}")
        times.append(taken)
    return times


ROUND_TRIP = """async (count) => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const times = [];
  for (let i = 0; i < count; i++) {
    const sent = performance.now();
    await kernel.requestKernelInfo();
    times.push(performance.now() - sent);
  }
  return times;
}"""


def round_trip(page: Any, count: int = 30) -> float:
    """Median milliseconds in which the kernel answers an empty question: the floor for all that asks it, just now."""
    return statistics.median(page.evaluate(ROUND_TRIP, count))


def median_and_p95(times: list[float]) -> tuple[float, float]:
    """The median and the 95th percentile, in the unit of `times`."""
    return statistics.median(times), statistics.quantiles(times, n=20, method="inclusive")[-1]
