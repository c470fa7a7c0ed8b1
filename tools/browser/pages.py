"""Pages of the site as a visitor's browser gets them: served from a folder, and on a slow line to a slow processor."""

import functools
import gzip
import http.server
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext

TEXTS = (".html", ".js", ".css", ".json", ".svg", ".ipynb")
LINE = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 100_000}  # 1.6 Mbit/s
SLOWER = 4  # times, than this processor is now
# When the first words and the first widget are there, and the bytes that each has waited for.
FIRST = """
const [page] = performance.getEntriesByType('navigation');
const named = () => performance.getEntriesByType('resource');
const sizes = (entries) => [page, ...entries].reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0);
const words = new Promise((resolve) =>
  new PerformanceObserver((list) => {
    const [paint] = list.getEntriesByName('first-contentful-paint');
    if (paint) resolve(paint.startTime);
  }).observe({ type: 'paint', buffered: true }));
const widget = new Promise((resolve) =>
  new MutationObserver((_, watch) => {
    if (!document.querySelector('.peft-live[data-alive], #knobs input, .peft-square')) return;
    watch.disconnect();
    resolve([performance.now(), named()]);
  }).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ['data-alive'] }));
const whole = new Promise((resolve) => addEventListener('DOMContentLoaded', resolve)); // the page's own size is known
window.first = Promise.all([words, widget, whole]).then(([at, [alive, before]]) => {
  const holdUp = named().filter(({ renderBlockingStatus }) => renderBlockingStatus === 'blocking');
  return [[at, sizes(holdUp), holdUp.length], [alive, sizes(before), before.length]];
});
"""
Waited = tuple[float, int, int]  # milliseconds, bytes, and requests beside the page's own


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves files, what is text in gzip, as every host of pages does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        path = path / "index.html" if path.is_dir() else path
        if not path.is_file() or path.suffix not in TEXTS:
            return super().do_GET()
        packed = gzip.compress(path.read_bytes(), 6)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(packed)))
        self.end_headers()
        self.wfile.write(packed)


class Server(http.server.ThreadingHTTPServer):
    """Says nothing of pages that were left while they were sent."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def served(folder: Path, files: type[Files] = Files) -> Iterator[str]:
    """Serve a folder at an address of its own, which is yielded: another port is another origin."""
    with Server(("127.0.0.1", 0), functools.partial(files, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def first_visit(context: BrowserContext, address: str) -> tuple[Waited, Waited]:
    """Open a page on a slow line with a slow processor; return what its first words and its first widget waited for."""
    page = context.new_page()
    cdp = context.new_cdp_session(page)
    cdp.send("Network.enable")
    cdp.send("Network.emulateNetworkConditions", LINE)
    cdp.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    page.add_init_script(f"{{ {FIRST} }}")
    page.goto(address, wait_until="commit")
    words, widget = page.evaluate("window.first")
    page.close()
    return tuple(words), tuple(widget)
