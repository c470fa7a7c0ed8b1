"""llama.cpp's server in a process of its own: `serving` starts it, and it ends when `serving` does, however that ends.

It reads what to serve from its input, as JSON in one line, so that the key stands in no command line, and writes the
address at which it answers. When the input ends, so does it, at once: llama.cpp would wait for answers in progress, and
for some of them for ever.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
TOGETHER = 4  # requests that are computed at the same time
CONTEXT = 2048  # tokens of each, prompt and answer
SECONDS = 60  # that a client may keep silent


def start(model: str, adapters: list[str], port: int, key: str) -> Any:
    """Return llama.cpp's server, which answers as long as something refers to it, adapters off unless asked for.

    Nothing that was computed for one prompt is kept for another, because llama.cpp finds it again by tokens alone and
    would go on with what another adapter made of them (llama.cpp's issues 26207 and 30129).

    Raises:
        RuntimeError: when llama.cpp refuses, for whatever reason.
    """
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    params = CommonParams()
    params.model.path, params.model_alias = model, {Path(model).stem}
    params.lora_adapters = [CommonAdapterLoraInfo(file, 0.0) for file in adapters]
    params.hostnames, params.port, params.api_keys = [HOST], port, [key]
    params.n_parallel, params.n_ctx = TOGETHER, TOGETHER * CONTEXT
    params.cache_prompt, params.cache_ram_mib, params.endpoint_slots = False, 0, False
    params.timeout_read = params.timeout_write = SECONDS
    params.ui, params.verbosity = False, -1
    return Server(params)


def main() -> None:
    server = start(**json.loads(sys.stdin.readline()))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever started this process gets them, too, and ends it
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
