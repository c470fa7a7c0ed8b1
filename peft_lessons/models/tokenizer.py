"""Text to token ids and back: a byte-level BPE tokenizer with, for chat models, the template of a conversation."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2
    import tokenizers

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # GGUF's types of tokens; special ones, such as <|im_end|>, control

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
# How text is split before bytes are merged, by the names that llama.cpp has for it
SPLITTERS: dict[str, dict[str, Any]] = {
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
    "gpt-2": BYTES,
}


class Tokenizer:
    """Wraps a tokenizer of Hugging Face's `tokenizers`.

    `eos_id` is the token that ends an answer or a text; `bos_token` is for chat templates that begin with one.

    Examples:
        >>> from peft_lessons.models import Tokenizer, load_tiny_gpt
        >>> _, tokenizer = load_tiny_gpt()
        >>> isinstance(tokenizer, Tokenizer), tokenizer.vocab_size
        (True, 1024)
        >>> tokenizer.decode(tokenizer.encode("It was a truth"))
        'It was a truth'
    """

    def __init__(
        self, tokenizer: "tokenizers.Tokenizer", eos_id: int, chat_template: str | None = None, bos_token: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        self.eos_id = eos_id
        self.chat_template = chat_template
        self.bos_token = bos_token

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build the tokenizer that a GGUF file's metadata describes.

        Raises:
            ValueError: for any kind but SmolLM's and GPT-2's.
        """
        model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
        if model != "gpt2" or pre not in SPLITTERS:
            possible = ", ".join(str(("gpt2", name)) for name in SPLITTERS)
            raise ValueError(f"this GGUF file has a tokenizer of kind {(model, pre)}; these can be read: {possible}")
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        tokens = metadata["tokenizer.ggml.tokens"]
        merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, by_bytes]) if pre == "smollm" else by_bytes
        tokenizer.decoder = decoders.ByteLevel()
        types = metadata["tokenizer.ggml.token_type"]
        special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
        return cls(tokenizer, metadata["tokenizer.ggml.eos_token_id"], metadata.get("tokenizer.chat_template"))

    def to_gguf(self, rows: int) -> dict[str, Any]:
        """Describe this tokenizer as a GGUF file's metadata does, for a model with `rows` rows in its embedding.

        Raises:
            ValueError: for any kind but SmolLM's and GPT-2's, and for more tokens than rows.
        """
        described = json.loads(self.tokenizer.to_str())
        splitter = _splitter(described["pre_tokenizer"])
        pre = next((name for name, known in SPLITTERS.items() if known == splitter), None)
        if described["model"]["type"] != "BPE" or described["normalizer"] is not None or pre is None:
            raise ValueError(
                f"this tokenizer is {described['model']['type']} with {splitter}; llama.cpp's files are written for "
                f"byte-level BPE split as in {', '.join(SPLITTERS)}"
            )
        if self.vocab_size > rows:
            raise ValueError(f"the tokenizer knows {self.vocab_size} tokens, and the model has rows for {rows}")
        added = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in described["added_tokens"]}
        known = range(self.vocab_size)
        unused = range(self.vocab_size, rows)  # rows that were added to round a size up
        template = {} if self.chat_template is None else {"tokenizer.chat_template": self.chat_template}
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": [self.tokenizer.id_to_token(i) for i in known] + [f"[PAD{i}]" for i in unused],
            "tokenizer.ggml.token_type": [added.get(i, NORMAL) for i in known] + [UNUSED for _ in unused],
            "tokenizer.ggml.merges": [" ".join(pair) for pair in described["model"]["merges"]],
            "tokenizer.ggml.eos_token_id": self.eos_id,
            "tokenizer.ggml.add_bos_token": False,
            **template,
        }

    @classmethod
    def from_file(
        cls, path: str | Path, eos_token: str | int, chat_template: str | None = None, bos_token: str = ""
    ) -> "Tokenizer":
        """Read the tokenizer in a `tokenizer.json`; `eos_token` is the text or the id of the token that ends a text.

        Raises:
            FileNotFoundError: when it is missing.
            ValueError: when it is damaged or lacks `eos_token`.
        """
        from tokenizers import Tokenizer

        if not Path(path).is_file():
            raise FileNotFoundError(f"{Path(path).parent} lacks {Path(path).name}")
        text = Path(path).read_text(encoding="utf-8")
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises a bare Exception
            raise ValueError(f"{path} is not a readable tokenizer.json: {error}") from error
        eos_id = eos_token if isinstance(eos_token, int) else tokenizer.token_to_id(eos_token)
        if eos_id is None or not 0 <= eos_id < tokenizer.get_vocab_size():
            raise ValueError(f"{path} has no token {eos_token!r}")
        return cls(tokenizer, eos_id, chat_template, bos_token)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; nothing is added. Special tokens written in the text become their ids."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Decode token ids, a list or a tensor (tokens,), to text, without special tokens unless they are asked for."""
        return self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def chat(self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation in the form that the model was trained on, up to where its next answer begins.

        A message is {"role": "system", "user" or "assistant", "content": text}. The text still has to be encoded.

        Raises:
            ValueError: when the model has no chat template, or when the messages are none.
        """
        if self.chat_template is None:
            raise ValueError("this model has no chat template: it continues text, it was not trained to converse")
        well_formed = isinstance(messages, list | tuple) and all(
            isinstance(message, Mapping) and {"role", "content"} <= set(message) for message in messages
        )
        if not well_formed or not messages:
            raise ValueError(f'messages is a list such as [{{"role": "user", "content": "Hello"}}]; got {messages!r}')
        from jinja2 import TemplateError

        def raise_exception(message: str) -> None:  # templates call it to refuse a conversation
            raise TemplateError(message)

        template = _compiled(self.chat_template)
        try:
            return template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token=self.bos_token,
                eos_token=self.tokenizer.id_to_token(self.eos_id),
                raise_exception=raise_exception,
            )
        except TemplateError as error:
            raise ValueError(f"the model's chat template refuses these messages: {error}") from error


@cache
def _compiled(template: str) -> "jinja2.Template":
    """A chat template, ready to be filled; to compile one takes a hundred times as long as that."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(template)


def _splitter(described: Any) -> Any:
    """What of a pre-tokenizer's description decides how it splits text."""
    if isinstance(described, dict):
        return {name: _splitter(part) for name, part in described.items() if name != "trim_offsets"}
    return [_splitter(part) for part in described] if isinstance(described, list) else described
