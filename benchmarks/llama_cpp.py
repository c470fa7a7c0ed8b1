"""llama.cpp on a GGUF file, SmolLM2's unless told otherwise, through the package xllamacpp: no code shared with torch.

It runs in processes of its own, since its threads and torch's would wait for each other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft_lessons.models.smollm2 import weights_path

CONTEXT = 512  # tokens


class Engine:
    """A server of llama.cpp without a network, with LoRA adapters from GGUF files."""

    def __init__(self, threads: int, adapters: Sequence[str] = (), model: str | Path | None = None) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(model or weights_path())
        params.n_ctx, params.n_parallel, params.verbosity = CONTEXT, 1, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in adapters]
        self.server = xllamacpp.Server(params)

    def complete(self, prompt: Sequence[int], new: int, scale: float = 0.0) -> dict[str, Any]:
        """`new` greedy tokens after `prompt`, with the first adapter at `scale`; end tokens do not end it.

        Returns the tokens' ids, their log-probabilities, and llama.cpp's own times: seconds until the first token, and
        tokens per second after it.
        """
        answer = self.server.handle_completions(
            {
                "prompt": list(prompt),
                "n_predict": new,
                "temperature": 0.0,
                "ignore_eos": True,
                "cache_prompt": False,
                "n_probs": 1,
                "lora": [{"id": 0, "scale": scale}],
            }
        )
        tokens, times = answer["choices"][0]["logprobs"]["content"], answer["timings"]
        return {
            "ids": [token["id"] for token in tokens],
            "log_probabilities": [token["logprob"] for token in tokens],
            "first": times["prompt_ms"] / 1000,
            "speed": (times["predicted_n"] - 1) / times["predicted_ms"] * 1000,
        }


def completions(
    requests: Sequence[Mapping[str, Any]],
    threads: int = 2,
    adapters: Sequence[str] = (),
    model: str | Path | None = None,
) -> list[Any]:
    """The answers to several calls of `Engine.complete`; to be run in a new process."""
    engine = Engine(threads, adapters, model)
    return [engine.complete(**request) for request in requests]
