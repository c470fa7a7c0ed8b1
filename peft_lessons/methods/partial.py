"""What adapters are measured against: training some or all of the model's own weights.

No adapter here, so nothing can be switched off or saved apart, and the base is gone once training begins.
"""

from torch import nn

from peft_lessons.adapters import Model
from peft_lessons.bases import is_quantized
from peft_lessons.checks import check_count


def full_fine_tuning(model: Model) -> Model:
    """Every parameter trains. Returns `model`, changed in place.

    Raises:
        TypeError: when a weight is quantized: codes do not train.

    Examples:
        >>> from peft_lessons import full_fine_tuning, trainable_parameters
        >>> from peft_lessons.models import Decoder, DecoderConfig
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> model = Decoder(DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
        >>> len(trainable_parameters(full_fine_tuning(model)))
        20
    """
    _require_dense(model)
    return model.requires_grad_(True)


def head_only(model: Model, head: str = "lm_head") -> Model:
    """Only the output head trains, as in a linear probe. Returns `model`, changed in place.

    A head whose weight is tied to the embedding gets its own copy first: it would train the embedding otherwise.

    Raises:
        ValueError: when there is no such head.
        TypeError: when it is quantized.

    Examples:
        >>> from peft_lessons import head_only, trainable_parameters
        >>> from peft_lessons.models import Decoder, DecoderConfig
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> model = Decoder(DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
        >>> [tuple(parameter.shape) for parameter in trainable_parameters(head_only(model))]
        [(10, 8)]
    """
    try:
        layer = model.get_submodule(head)
    except AttributeError as error:
        raise ValueError(f"the model has no {head!r}; it has {_children(model)}") from error
    _require_dense(layer)
    model.requires_grad_(False)
    elsewhere = {id(p) for module in model.modules() if module is not layer for p in module.parameters(recurse=False)}
    for name, parameter in list(layer.named_parameters(recurse=False)):
        if id(parameter) in elsewhere:
            setattr(layer, name, nn.Parameter(parameter.detach().clone()))
    layer.requires_grad_(True)
    return model


def last_layers(model: Model, count: int, layers: str = "model.layers") -> Model:
    """Only the last `count` blocks of `layers` train. Returns `model`, changed in place.

    Raises:
        ValueError: when there is no such list of blocks, or it is shorter.
        TypeError: when they are quantized.

    Examples:
        >>> from peft_lessons import last_layers, trainable_parameters
        >>> from peft_lessons.models import Decoder, DecoderConfig
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> model = Decoder(DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
        >>> len(trainable_parameters(last_layers(model, 1)))
        9
    """
    check_count("count", count)
    try:
        blocks = model.get_submodule(layers)
    except AttributeError as error:
        raise ValueError(f"the model has no {layers!r}; it has {_children(model)}") from error
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(f"{layers!r} is a {type(blocks).__name__}, not a list of blocks")
    if count > len(blocks):
        raise ValueError(f"{layers!r} holds {len(blocks)} blocks; asked to train the last {count}")
    last = list(blocks)[-count:]
    for block in last:
        _require_dense(block)
    model.requires_grad_(False)
    for block in last:
        block.requires_grad_(True)
    return model


def _require_dense(module: nn.Module) -> None:
    for name, part in module.named_modules():
        if is_quantized(part):
            raise TypeError(f"quantized weights do not train, and {name or 'this one'} is: inject an adapter instead")


def _children(model: nn.Module) -> str:
    return ", ".join(repr(name) for name, _ in model.named_modules() if 0 < len(name.split(".")) <= 2 and name)
