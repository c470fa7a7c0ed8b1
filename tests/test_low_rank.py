"""y + scaling · (x Aᵀ) Bᵀ against the plain formula, which autograd differentiates."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from peft_lessons.low_rank import _AddLowRank, adapted_linear, add_low_rank

IN, OUT, SCALING = 12, 20, 0.7
FEW, MANY = (3, 4), (4, 64)  # leading dimensions on either side of the change of path


def operands(rows: tuple[int, ...], rank: int = 5, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """y, x, A, B"""
    generator = torch.Generator().manual_seed(0)
    shapes = (*rows, OUT), (*rows, IN), (rank, IN), (OUT, rank)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def plain(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: float = SCALING) -> Tensor:
    return y + scaling * ((x @ A.T) @ B.T)


def gradients(function, tensors: list[Tensor], needs: tuple[bool, ...] = (True,) * 4) -> tuple[Tensor, list]:
    """The value, and the gradient of each of `tensors` under a fixed gradient of the value."""
    leaves = [tensor.detach().clone().requires_grad_(need) for tensor, need in zip(tensors, needs, strict=True)]
    value = function(*leaves)
    if value.requires_grad:
        upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        value.backward(upstream.to(value.dtype))
    return value.detach(), [leaf.grad for leaf in leaves]


def ours(y: Tensor, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return add_low_rank(y, x, A, B, SCALING)


def test_both_paths_are_taken(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(_AddLowRank, "apply", lambda *arguments: taken.append(arguments))
    ours(*operands(FEW))
    assert not taken
    ours(*operands(MANY))
    assert taken


@pytest.mark.parametrize("rank", [1, 5, 32])
@pytest.mark.parametrize("rows", [FEW, MANY, (256,), (), (2, 8, 16), (0, 7), (1,)], ids=str)
def test_value_and_gradients(rows: tuple[int, ...], rank: int) -> None:
    value, found = gradients(ours, operands(rows, rank))
    expected, wanted = gradients(plain, operands(rows, rank))
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rows", [FEW, (130,)], ids=str)
def test_gradcheck(rows: tuple[int, ...]) -> None:
    leaves = [tensor.requires_grad_() for tensor in operands(rows, rank=2)]
    assert torch.autograd.gradcheck(ours, leaves, fast_mode=True)


@pytest.mark.parametrize("rows", [FEW, MANY], ids=str)
@pytest.mark.parametrize("needs", list(product([False, True], repeat=4)), ids=str)
def test_only_what_is_asked_for_gets_a_gradient(needs: tuple[bool, ...], rows: tuple[int, ...]) -> None:
    value, found = gradients(ours, operands(rows), needs)
    expected, wanted = gradients(plain, operands(rows), needs)
    torch.testing.assert_close(value, expected)
    assert [grad is not None for grad in found] == list(needs)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("rows", [FEW, MANY], ids=str)
@pytest.mark.parametrize(
    ("dtype", "adapter"), [("float32", "float32"), ("bfloat16", "float32"), ("float64", "float32")]
)
def test_precisions(dtype: str, adapter: str, rows: tuple[int, ...]) -> None:
    """As near to the exact result as the plain formula in the same dtypes; each gradient in its tensor's dtype."""
    data, parameter = getattr(torch, dtype), getattr(torch, adapter)
    y, x, A, B = operands(rows)
    rounded = [y.to(data), x.to(data), A.to(parameter), B.to(parameter)]
    value, found = gradients(ours, rounded)
    exact, wanted = gradients(plain, [tensor.double() for tensor in rounded])
    assert value.dtype == data
    assert [grad.dtype for grad in found] == [tensor.dtype for tensor in rounded]
    cast, cast_found = gradients(lambda y, x, A, B: plain(y, x, A.to(data), B.to(data)), rounded)
    for mine, peer, target in zip([value, *found], [cast, *cast_found], [exact, *wanted], strict=True):
        rounding = (torch.finfo(mine.dtype).eps + 1e-15) * target.norm()  # its own last one, and those of the target
        assert (mine.double() - target).norm() <= 1.5 * (peer.double() - target).norm() + rounding


@pytest.mark.parametrize("rows", [FEW, MANY], ids=str)
@pytest.mark.parametrize("follows", [True, False], ids=["y in bf16", "y in fp32"])
def test_autocast(follows: bool, rows: tuple[int, ...]) -> None:
    """A base layer may follow autocast or not: y keeps its dtype, x and the parameters are fp32."""
    y, x, A, B = operands(rows, dtype=torch.float32)
    y = y.bfloat16() if follows else y

    def under_autocast(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ours(*tensors)

    value, found = gradients(under_autocast, [y, x, A, B])
    exact, wanted = gradients(plain, [tensor.double() for tensor in (y, x, A, B)])
    assert value.dtype == y.dtype
    assert [grad.dtype for grad in found] == [y.dtype, *[torch.float32] * 3]
    for mine, theirs in zip([value, *found], [exact, *wanted], strict=True):
        assert (mine.double() - theirs).norm() <= 0.01 * theirs.norm()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(y, x, A, torch.zeros_like(B)), y)


@pytest.mark.parametrize("rows", [FEW, MANY], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_zero_b_changes_no_bit(dtype: torch.dtype, rows: tuple[int, ...]) -> None:
    y, x, A, B = operands(rows, dtype=dtype)
    assert torch.equal(ours(y, x, A, torch.zeros_like(B)), y)


@pytest.mark.parametrize("rows", [FEW, MANY], ids=str)
def test_strides(rows: tuple[int, ...]) -> None:
    """Transposed and expanded operands, and an expanded gradient."""
    y, x, A, B = operands(rows)

    def through(function):
        def strange(y, x, A, B):
            lying = x.transpose(0, 1).contiguous().transpose(0, 1)
            wide = y[:1].expand_as(y)
            value = function(wide, lying, A.T.contiguous().T, B)
            return value.sum().expand(3)

        return strange

    assert all(
        torch.allclose(mine, theirs)
        for mine, theirs in zip(
            gradients(through(ours), [y, x, A, B])[1], gradients(through(plain), [y, x, A, B])[1], strict=True
        )
    )


@pytest.mark.parametrize("base", ["relu", "tanh", "identity", "bias", "slice", "leaf"])
def test_any_base_layer(base: str) -> None:
    """y may be kept by its producer, be x itself, a view or a leaf; no tensor that a base returns is written to."""
    torch.manual_seed(0)
    linear = nn.Linear(IN, IN, dtype=torch.float64)
    leaf = nn.Parameter(torch.randn(*MANY, IN, dtype=torch.float64))
    bases = {
        "relu": lambda x: linear(x).relu(),
        "tanh": lambda x: linear(x).tanh(),
        "identity": lambda x: x,
        "bias": linear,
        "slice": lambda x: torch.cat((linear(x), x), dim=-1)[..., 2 : IN + 2],
        "leaf": lambda x: leaf,
    }
    _, x, A, _ = operands(MANY)
    B = torch.randn(IN, len(A), dtype=torch.float64)
    seen = []

    def run(function) -> list[Tensor]:
        parameters = [x.clone().requires_grad_(), A.clone().requires_grad_(), B.clone().requires_grad_()]
        y = bases[base](parameters[0])
        before = y.detach().clone()
        value = function(y, *parameters, SCALING)
        seen.append(torch.equal(y, before))
        every = [*parameters, *linear.parameters(), leaf]
        return [value, *torch.autograd.grad(value.square().sum(), every, materialize_grads=True)]

    torch.testing.assert_close(run(add_low_rank), run(plain))
    assert all(seen)


def saved(function, *tensors: Tensor) -> tuple[set[str], int]:
    """What a function keeps for backward: which of its operands x, A and B, and how many bytes beside them."""
    given, kept = {tensor.untyped_storage().data_ptr() for tensor in tensors}, {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function(*tensors)
    assert value.requires_grad == any(tensor.requires_grad for tensor in tensors)
    x, A, B = tensors[1:]
    kept_inputs = {name for name, tensor in {"x": x, "A": A, "B": B}.items() if tensor.data_ptr() in kept}
    new = sum(tensor.nbytes for pointer, tensor in kept.items() if pointer not in given)
    return kept_inputs, new


@pytest.mark.parametrize(
    ("needs", "kept"),
    [
        ((False, True, True, True), ({"x", "A", "B"}, 1)),
        ((True, False, True, True), ({"x", "B"}, 1)),
        ((True, True, False, True), ({"A", "B"}, 1)),  # LoRA-FA trains B alone
        ((True, True, True, False), ({"x", "A", "B"}, 0)),
        ((True, False, False, True), (set(), 1)),
        ((True, True, False, False), ({"A", "B"}, 0)),
        ((True, False, False, False), (set(), 0)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_kept_for_backward(needs, kept, dtype: torch.dtype) -> None:
    """x if A trains, rows · rank numbers if B trains, nothing else; fp32 parameters over bf16 are not kept twice."""
    rank = 5
    y, x, A, B = operands(MANY, rank, dtype)
    tensors = [t.requires_grad_(need) for t, need in zip([y, x, A.float(), B.float()], needs, strict=True)]
    inputs, new_bytes = saved(ours, *tensors)
    assert inputs == kept[0]
    assert new_bytes == kept[1] * rank * 256 * dtype.itemsize


def test_nothing_is_kept_without_gradients() -> None:
    tensors = [tensor.requires_grad_() for tensor in operands(MANY)]
    with torch.no_grad():
        value = ours(*tensors)
    assert not value.requires_grad
    torch.testing.assert_close(value, plain(*tensors).detach())


@pytest.mark.parametrize("rows", [FEW, MANY], ids=str)
def test_checkpointing(rows: tuple[int, ...]) -> None:
    value, found = gradients(lambda *tensors: checkpoint(ours, *tensors, use_reentrant=False), operands(rows))
    expected, wanted = gradients(plain, operands(rows))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(found, wanted)


def test_a_parameter_that_was_changed_before_backward_is_an_error() -> None:
    y, x, A, B = (tensor.requires_grad_() for tensor in operands(MANY))
    value = ours(y, x, A, B)
    with torch.no_grad():
        B.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_gradients_of_gradients_are_an_error_and_not_wrong() -> None:
    y, x, A, B = (tensor.requires_grad_() for tensor in operands(MANY))
    (first,) = torch.autograd.grad(ours(y, x, A, B).square().sum(), B, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


EACH = (True, True, True)  # x, A and B need a gradient


def frozen_linear(bias: bool = True, dtype: torch.dtype = torch.float64) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(IN, OUT, bias=bias, dtype=dtype).requires_grad_(False)


def test_over_a_plain_linear_layer_one_function_does_both(monkeypatch) -> None:
    """The base product is computed inside only where nothing could see or need it: each case differs in one thing."""
    given = []
    monkeypatch.setattr(_AddLowRank, "apply", lambda y, *others: given.append(y))
    _, x, A, B = operands(MANY)

    def y_is_given(layer: nn.Module, dropped: Tensor = x) -> bool:
        adapted_linear(layer, x, dropped, A, B, SCALING)
        return given.pop() is not None

    class Louder(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    assert not y_is_given(frozen_linear())
    assert not y_is_given(frozen_linear(bias=False))
    assert y_is_given(frozen_linear(), dropped=x * 1)
    assert y_is_given(Louder(IN, OUT, dtype=torch.float64).requires_grad_(False))
    assert y_is_given(nn.Sequential(frozen_linear()))
    patched = frozen_linear()
    patched.forward = lambda x: nn.Linear.forward(patched, x) + 100  # as accelerate attaches its hooks
    assert y_is_given(patched)
    unregistered = frozen_linear(bias=False)
    weight = unregistered.weight.detach().clone().requires_grad_()
    del unregistered.weight
    unregistered.weight = weight
    assert y_is_given(unregistered)
    for trains in ("weight", "bias"):
        layer = frozen_linear()
        getattr(layer, trains).requires_grad_()
        assert y_is_given(layer), trains
    for hook in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        layer = frozen_linear()
        getattr(layer, f"register_{hook}")(lambda *_: None)
        assert y_is_given(layer), hook
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert y_is_given(frozen_linear())
    finally:
        handle.remove()


def test_over_a_plain_linear_layer_not_under_autocast(monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(_AddLowRank, "apply", lambda y, *others: seen.append(y.dtype))
    _, x, A, B = operands(MANY, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        adapted_linear(frozen_linear(dtype=torch.float32), x, x, A, B, SCALING)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("rows", [FEW, MANY, (256,), (), (2, 8, 16), (0, 7)], ids=str)
@pytest.mark.parametrize("needs", [EACH, (False, True, True), (True, False, True), (True, True, False)], ids=str)
def test_adapted_linear(needs: tuple[bool, ...], rows: tuple[int, ...], bias: bool) -> None:
    layer, tensors = frozen_linear(bias), operands(rows)[1:]
    value, found = gradients(lambda x, A, B: adapted_linear(layer, x, x, A, B, SCALING), tensors, needs)
    expected, wanted = gradients(lambda x, A, B: plain(layer(x), x, A, B), tensors, needs)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    assert [grad is not None for grad in found] == list(needs)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("rows", [FEW, MANY, (256,), (2, 8, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_adapted_linear_with_zero_b_is_the_base_to_the_last_bit(dtype, rows: tuple[int, ...], bias: bool) -> None:
    layer, (_, x, A, B) = frozen_linear(bias, dtype), operands(rows, dtype=dtype)
    assert torch.equal(adapted_linear(layer, x, x, A, torch.zeros_like(B), SCALING), layer(x))


def test_adapted_linear_takes_any_strides() -> None:
    layer, (_, x, A, B) = frozen_linear(), operands(MANY)
    lying, spread = x.transpose(0, 1).contiguous().transpose(0, 1), x[:1].expand(4, -1, -1)
    for strange in (lying, spread, x[:, ::2]):
        before = strange.clone()
        value, found = gradients(lambda x, A, B: adapted_linear(layer, x, x, A, B, SCALING), [strange, A, B], EACH)
        expected, wanted = gradients(lambda x, A, B: plain(layer(x), x, A, B), [strange, A, B], EACH)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(found, wanted)
        assert torch.equal(strange, before)


def test_adapted_linear_keeps_no_more_for_backward() -> None:
    """x, the parameters and rows · rank numbers: the result and the base's part of it are not kept."""
    layer, rank = frozen_linear(), 5
    _, x, A, B = (tensor.requires_grad_() for tensor in operands(MANY, rank))
    kept, new_bytes = saved(lambda y, x, A, B: adapted_linear(layer, x, x, A, B, SCALING), layer.weight, x, A, B)
    assert kept == {"x", "A", "B"}
    assert new_bytes == rank * 256 * 8


@pytest.mark.slow
def test_adapted_linear_compiles_into_one_graph() -> None:
    layer, (_, x, A, B) = frozen_linear(), operands(MANY)
    compiled = torch.compile(adapted_linear, backend="aot_eager", fullgraph=True)
    value, found = gradients(lambda x, A, B: compiled(layer, x, x, A, B, SCALING), [x, A, B], EACH)
    expected, wanted = gradients(lambda x, A, B: plain(layer(x), x, A, B), [x, A, B], EACH)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("rows", [FEW, MANY, (256,), (2, 8, 16)], ids=str)
@pytest.mark.parametrize("dropout", [False, True], ids=["", "dropout"])
def test_the_result_may_be_changed_in_place(rows: tuple[int, ...], dropout: bool) -> None:
    """By nn.ReLU(inplace=True), say, or h += …: as after any other layer."""
    layer, (_, x, A, B) = frozen_linear(), operands(rows)
    dropped = x * 1 if dropout else x
    value, found = gradients(
        lambda A, B: adapted_linear(layer, x, dropped, A, B, SCALING).mul_(2).relu_(), [A, B], EACH[1:]
    )
    expected, wanted = gradients(lambda A, B: (2 * plain(layer(x), x, A, B)).relu(), [A, B], EACH[1:])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("rows", [FEW, MANY], ids=str)
def test_on_the_meta_device(rows: tuple[int, ...]) -> None:
    layer, (_, x, A, B) = frozen_linear().to("meta"), (tensor.to("meta") for tensor in operands(rows))
    assert adapted_linear(layer, x, x, A, B, SCALING).shape == (*rows, OUT)
