"""How long a slider's figure takes from a key press to the changed picture, in a real browser."""

import statistics
from typing import Any

# The key's own time stamp is when the browser got it; an <svg> has changed when its paths have, an <img> when the new
# picture is decoded.
RECORD = """(figure) => {
  let pressed;
  const times = (figure.latencies = []);
  const changed = () => times.push(performance.now() - pressed);
  figure.addEventListener("keydown", (event) => (pressed = event.timeStamp), true);
  const image = figure.querySelector(":scope > img");
  if (image) image.addEventListener("load", () => image.decode().then(changed, () => {})); // superseded
  else new MutationObserver(changed).observe(figure, { attributes: true, attributeFilter: ["d"], subtree: true });
}"""


def key_to_picture(slider: Any, presses: int = 60) -> list[float]:
    """Milliseconds of each press of an arrow key, one after the other: right to the end, then left again, and so on.

    Args:
        slider: a Playwright locator of one `<input type=range>` of a sweep or live figure, with at least two values
            that look different.
        presses: how many.

    Raises:
        playwright's TimeoutError: a press changed nothing.
    """
    page = slider.page
    figure = slider.locator("xpath=ancestor::figure").element_handle()
    figure.evaluate(RECORD)
    key = "ArrowRight"
    for count in range(presses):
        value, low, high = slider.evaluate("(input) => [input.value, input.min, input.max].map(Number)")
        key = {low: "ArrowRight", high: "ArrowLeft"}.get(value, key)
        slider.press(key)
        page.wait_for_function(
            "([figure, count]) => figure.latencies.length > count", arg=[figure, count], timeout=10_000
        )
    return figure.evaluate("(figure) => figure.latencies")


def median_and_p95(times: list[float]) -> tuple[float, float]:
    """The median and the 95th percentile, in the unit of `times`."""
    return statistics.median(times), statistics.quantiles(times, n=20, method="inclusive")[-1]
