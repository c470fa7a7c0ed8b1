"""A diffusion transformer that draws, one page: Peebles and Xie (arXiv:2212.09748), trained by flow matching
(Lipman et al., arXiv:2210.02747).

On the straight line from noise ε to a picture x lies x_t = (1 − t) ε + t x, and along it the velocity is x − ε. The
network v(x_t, t, label) learns the mean velocity of all such lines through a point:

    loss = mean ‖v(x_t, t, label) − (x − ε)‖²

To draw, begin with noise at t = 0 and follow the velocity to t = 1 in small steps, x ← x + Δt · v(x, t, label): Euler's
method. Each picture is cut into patches, which are the tokens. Time and label reach them by adaptive layer norm (adaLN-
zero, §3.2): they shift, scale and gate what each block does, and the gates start at zero, so that a new block is the
identity.

Left out: the autoencoder, since these pictures are small enough to be drawn pixel by pixel; guidance, which takes two
passes a step; and the predicted variance of the older diffusion loss.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FASTEST = 1000.0  # radians that the quickest of the time's waves turns from t = 0 to t = 1


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The shape of a diffusion transformer.

    Attributes:
        num_labels: What can be asked for: the labels are 0 to num_labels − 1.
        image_size: Pixels along a side of the square pictures, which are grey.
        patch_size: Pixels along a side of a patch; divides `image_size`.
        hidden_size: Width of the hidden states.
        intermediate_size: Width inside of the feed-forward part.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads; divides `hidden_size`.
        time_features: Waves by which the network reads the time, half of them cosines; even.

    Raises:
        ValueError: for sizes that do not divide each other.

    Examples:
        >>> from peft_lessons.models import DiffusionConfig
        >>> DiffusionConfig(num_labels=52, hidden_size=64, intermediate_size=256, num_hidden_layers=2).tokens
        64
    """

    num_labels: int
    image_size: int = 32
    patch_size: int = 4
    hidden_size: int = 128
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 4
    time_features: int = 64

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"pictures of {self.image_size} pixels do not split into patches of {self.patch_size}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} does not split into {self.num_attention_heads} heads")
        if self.time_features % 2:
            raise ValueError(f"time_features must be even, a sine for each cosine; got {self.time_features}")

    @property
    def patches(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        return self.patches**2


class Attention(nn.Module):
    """Every patch looks at every patch."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, tokens, 3 · hidden_size) → three of (batch, heads, tokens, hidden_size / heads)
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # For so few tokens, twice as quick to train, compiled in bf16, as torch's fused kernel.
        scores = queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5
        mixed = scores.softmax(-1).to(values.dtype) @ values
        return self.proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """adaLN-zero: x + gate · part(norm(x) · (1 + scale) + shift), for attention and for the feed-forward part."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(config)
        self.mlp = FeedForward(config)
        self.modulation = nn.Linear(config.hidden_size, 6 * config.hidden_size)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(batch, tokens, hidden_size), and what time and label say, (batch, 1, hidden_size) → hidden states."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulation(condition).chunk(6, dim=-1)
        x = x + gate * self.attention(modulated(self.norm(x), shift, scale))
        return x + gate_mlp * self.mlp(modulated(self.norm(x), shift_mlp, scale_mlp))


class DiffusionTransformer(nn.Module):
    """The velocity v(x_t, t, label) of pictures on their way from noise.

    A new model predicts zero everywhere: its gates and its last layer start there (§3.2). `from_tensors` takes given
    weights.

    Examples:
        >>> import torch
        >>> from peft_lessons.models import DiffusionConfig, DiffusionTransformer
        >>> model = DiffusionTransformer(DiffusionConfig(num_labels=52, num_hidden_layers=1))
        >>> model(torch.randn(3, 32, 32), torch.rand(3), torch.tensor([0, 1, 51])).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        width, pixels = config.hidden_size, config.patch_size**2
        self.patch_in = nn.Linear(pixels, width)
        self.positions = nn.Parameter(torch.empty(config.tokens, width))
        self.time_in = nn.Linear(config.time_features, width)
        self.time_out = nn.Linear(width, width)
        self.labels = nn.Embedding(config.num_labels, width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.patch_out = nn.Linear(width, pixels)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for table in (self.positions, self.labels.weight):
            nn.init.normal_(table, std=0.2)
        for name, parameter in self.named_parameters():
            if name.endswith("modulation.weight") or name == "patch_out.weight":
                nn.init.zeros_(parameter)

    @classmethod
    def from_tensors(cls, config: DiffusionConfig, tensors: Mapping[str, Tensor]) -> "DiffusionTransformer":
        """A model in eval mode that holds `tensors` (not copies), by their names in `state_dict`.

        Raises:
            ValueError: unless names and shapes fit exactly.
        """
        with torch.device("meta"):
            model = cls(config)
        try:
            model.load_state_dict(dict(tensors), assign=True)
        except RuntimeError as error:
            raise ValueError(f"these weights do not fit this model: {error}") from error
        return model.eval()

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Pictures (batch, size, size), times (batch,) from 0 to 1 and int64 labels (batch,) → velocities, (batch,
        size, size)."""
        if images.shape[1:] != (size := self.config.image_size, size):
            raise ValueError(f"pictures must be (batch, {size}, {size}); got shape {tuple(images.shape)}")
        waves = time_waves(times, self.config.time_features).to(self.positions.dtype)[:, None]
        condition = F.silu(self.time_out(F.silu(self.time_in(waves))) + self._embedded(labels)[:, None])
        x = self.patch_in(to_patches(images, self.config.patch_size)) + self.positions
        for block in self.layers:
            x = block(x, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        return from_patches(self.patch_out(modulated(self.norm(x), shift, scale)), self.config.patch_size)

    def _embedded(self, labels: Tensor) -> Tensor:
        try:
            return self.labels(labels)
        except IndexError as error:
            raise ValueError(
                f"labels go from {labels.min()} to {labels.max()}; this model knows 0 to {self.config.num_labels - 1}"
            ) from error


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def time_waves(times: Tensor, count: int) -> Tensor:
    """cos and sin of 1000 t · 10000^(−i / half) for i from 0 to half − 1: times (batch,) → fp32 (batch, count)."""
    half = count // 2
    exponents = torch.arange(half, device=times.device, dtype=torch.float32) / half
    angles = torch.outer(times.float() * FASTEST, 10_000.0**-exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def to_patches(images: Tensor, size: int) -> Tensor:
    """(batch, rows · size, columns · size) → (batch, rows · columns, size²), row by row."""
    return images.unflatten(1, (-1, size)).unflatten(3, (-1, size)).transpose(2, 3).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor, size: int) -> Tensor:
    """The inverse of `to_patches`, for square pictures."""
    side = round(patches.shape[1] ** 0.5)
    return patches.unflatten(1, (side, side)).unflatten(3, (size, size)).transpose(2, 3).flatten(3).flatten(1, 2)


def flow_matching_loss(model: nn.Module, images: Tensor, labels: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """Mean of (v(x_t, t, label) − (x − ε))² over all pixels, at x_t = (1 − t) ε + t x (arXiv:2210.02747). A scalar.

    `images` x and `noise` ε are (batch, size, size), `times` t and int64 `labels` (batch,). It has the form of a `loss`
    for `peft_lessons.training.train`, and `flow_batches` makes the batches.

    Examples:
        >>> import torch
        >>> from peft_lessons.models import DiffusionConfig, DiffusionTransformer, flow_matching_loss
        >>> model = DiffusionTransformer(DiffusionConfig(num_labels=52, num_hidden_layers=1))
        >>> white, noise = torch.ones(2, 32, 32), torch.zeros(2, 32, 32)
        >>> flow_matching_loss(model, white, torch.tensor([0, 1]), noise, torch.rand(2)).item()  # it predicts 0, not 1
        1.0
    """
    t = times[:, None, None]
    between = (1 - t) * noise + t * images
    return F.mse_loss(model(between, times, labels).float(), images - noise)


def flow_batches(
    images: Tensor, labels: Tensor, *, batch_size: int, seed: int, shift: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Endless batches of pictures drawn at random, with noise and times: (images, labels, noise, times).

    Times are logit-normal, the sigmoid of a normal number: most lie in the middle, where a picture is decided (Esser et
    al., arXiv:2403.03206, §3.1). With `shift` a picture is moved by up to so many pixels each way, and what is new at
    its border has the value of its first pixel.

    Examples:
        >>> import torch
        >>> from peft_lessons.models import flow_batches
        >>> pictures, labels = torch.zeros(5, 32, 32), torch.arange(5)
        >>> [part.shape for part in next(flow_batches(pictures, labels, batch_size=2, seed=0))]
        [torch.Size([2, 32, 32]), torch.Size([2]), torch.Size([2, 32, 32]), torch.Size([2])]
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(images), (batch_size,), generator=generator)
        batch = images[chosen].float()
        if shift:
            batch = _shifted(batch, torch.randint(2 * shift + 1, (2, batch_size), generator=generator), shift)
        noise = torch.randn(batch.shape, generator=generator)
        yield batch, labels[chosen], noise, torch.randn(batch_size, generator=generator).sigmoid()


def _shifted(images: Tensor, moves: Tensor, shift: int) -> Tensor:
    """Move each picture by its own `moves` − shift, (2, batch): rows, then columns."""
    size = images.shape[-1]
    outside = images[:, :1, :1].expand(-1, size + 2 * shift, size + 2 * shift).clone()
    outside[:, shift:-shift, shift:-shift] = images
    windows = outside.unfold(1, size, 1).unfold(2, size, 1)
    return windows[torch.arange(len(images)), moves[0], moves[1]]


def flow_evaluation(
    images: Tensor, labels: Tensor, *, draws: int = 8, seed: int = 0
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Batches to measure by: every picture `draws` times, each with noise of its own and times from early to late.

    The times are evenly spaced quantiles of the logit-normal distribution, one for each draw, and the noise is the same
    at each call, so that two models, or one before and after training, can be compared.

    Examples:
        >>> import torch
        >>> from peft_lessons.models import flow_evaluation
        >>> batches = flow_evaluation(torch.zeros(3, 32, 32), torch.arange(3), draws=2)
        >>> [round(times[0].item(), 4) for *_, times in batches]
        [0.3375, 0.6625]
    """
    generator = torch.Generator().manual_seed(seed)
    quantiles = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    times = torch.special.ndtri(quantiles).sigmoid().float()
    return [
        (images.float(), labels, torch.randn(images.shape, generator=generator), time.expand(len(images)))
        for time in times
    ]


def euler_step(model: nn.Module, x: Tensor, labels: Tensor, time: float, step: float) -> Tensor:
    """x + step · v(x, time, label): pictures (batch, size, size) at `time` → those at time + step.

    Examples:
        >>> import torch
        >>> from peft_lessons.models import euler_step
        >>> def towards_white(x, times, labels):  # where the line through x at time t leads, at its speed
        ...     return (1 - x) / (1 - times[:, None, None])
        >>> euler_step(towards_white, torch.zeros(1, 32, 32), torch.tensor([0]), time=0.5, step=0.25).mean().item()
        0.5
    """
    times = torch.full((len(x),), time, device=x.device)
    return x + step * model(x, times, labels)


def draw(model: DiffusionTransformer, labels: Tensor, *, steps: int = 20, seed: int = 0) -> Tensor:
    """Draw a picture for each of `labels`, int64 (pictures,) → (pictures, size, size).

    Starts at noise, which `seed` fixes, and takes `steps` Euler steps.

    Raises:
        ValueError: for less than one step.

    Examples:
        >>> from peft_lessons.models import draw, letter_ids, load_letters
        >>> draw(load_letters(), letter_ids("LoRA"), steps=2).shape
        torch.Size([4, 32, 32])
    """
    *_, last = draw_steps(model, labels, steps=steps, seed=seed)
    return last


@torch.no_grad()
def draw_steps(model: DiffusionTransformer, labels: Tensor, *, steps: int = 20, seed: int = 0) -> Iterator[Tensor]:
    """What `draw` goes through: the noise, and the pictures after each step, (pictures, size, size).

    Raises:
        ValueError: for less than one step.

    Examples:
        >>> from peft_lessons.models import draw_steps, letter_ids, load_letters
        >>> len(list(draw_steps(load_letters(), letter_ids("a"), steps=3)))
        4
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    device = next(model.parameters()).device
    labels = labels.to(device)
    size = model.config.image_size
    x = torch.randn(len(labels), size, size, generator=torch.Generator().manual_seed(seed)).to(device)
    yield x
    for step in range(steps):
        x = euler_step(model, x, labels, step / steps, 1 / steps)
        yield x
