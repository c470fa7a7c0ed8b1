"""What adapters are measured against: training some or all of the model's own weights.

No adapter here, so nothing can be switched off or saved apart, and the base is gone once training begins.
"""

from torch import nn

from peft_lessons.adapters import Model
from peft_lessons.checks import check_count


def full_fine_tuning(model: Model) -> Model:
    """Every parameter trains. Returns `model`, changed in place."""
    return model.requires_grad_(True)


def head_only(model: Model, head: str = "lm_head") -> Model:
    """Only the output head trains, as in a linear probe. Returns `model`, changed in place.

    A head whose weight is tied to the embedding gets its own copy first: it would train the embedding otherwise.
    Raises ValueError when there is no such head.
    """
    try:
        layer = model.get_submodule(head)
    except AttributeError as error:
        raise ValueError(f"the model has no {head!r}; it has {_children(model)}") from error
    model.requires_grad_(False)
    elsewhere = {id(p) for module in model.modules() if module is not layer for p in module.parameters(recurse=False)}
    for name, parameter in list(layer.named_parameters(recurse=False)):
        if id(parameter) in elsewhere:
            setattr(layer, name, nn.Parameter(parameter.detach().clone()))
    layer.requires_grad_(True)
    return model


def last_layers(model: Model, count: int, layers: str = "model.layers") -> Model:
    """Only the last `count` blocks of `layers` train. Returns `model`, changed in place.

    Raises ValueError when there is no such list of blocks, or it is shorter.
    """
    check_count("count", count)
    try:
        blocks = model.get_submodule(layers)
    except AttributeError as error:
        raise ValueError(f"the model has no {layers!r}; it has {_children(model)}") from error
    if not isinstance(blocks, nn.ModuleList) or count > len(blocks):
        raise ValueError(f"{layers!r} holds {len(list(blocks.children()))} blocks; asked to train the last {count}")
    model.requires_grad_(False)
    for block in list(blocks)[-count:]:
        block.requires_grad_(True)
    return model


def _children(model: nn.Module) -> str:
    return ", ".join(repr(name) for name, _ in model.named_modules() if 0 < len(name.split(".")) <= 2 and name)
