"""Token mixers at equal width, from small maps to large ones: which is fastest from which size on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from backbones.layers.mixers import Mixer

# One of every kind of cost.
DEFAULT = (
    "softmax",
    "shifted_window",
    "neighborhood",
    "agent",
    "inline",
    "rala",
    "mala",
    "softmax_free",
    "spectral",
    "relu_linear",
)
PASSES = ("forward", "forward+backward")


class MixerSubject:
    """A mixer with a map, called forward or forward and backward.

    Args:
        name: Of `backbones.layers.mixers.MIXERS`.
        map_size: `(H, W)` of the map, which the mixer is made for.
        dim: Channels C.
        num_heads: Heads.
        batch: Maps.
        backward: Gradients of the map and the parameters too.
        device, dtype: Of all.
    """

    def __init__(
        self,
        name: str,
        map_size: tuple[int, int],
        dim: int,
        num_heads: int,
        batch: int,
        backward: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        torch.manual_seed(0)
        mixer = Mixer.of(name)(dim, num_heads, map_size=map_size, block=1)
        self.mixer = mixer.to(device, dtype).train(backward)
        self.x = torch.randn(batch, *map_size, dim, device=device, dtype=dtype, requires_grad=backward)
        self.backward = backward

    def __call__(self) -> None:
        with torch.set_grad_enabled(self.backward):
            out = self.mixer(self.x)
            if self.backward:
                torch.autograd.grad(out.sum(), [self.x, *self.mixer.parameters()], allow_unused=True)


def check_names(names: Sequence[str]) -> None:
    """Make sure that all are mixers.

    Raises:
        ValueError: One is not, naming the nearest.
    """
    for name in names:
        Mixer.of(name)


def table(rows: Sequence[Mapping[str, Any]], which: str) -> tuple[str, list[list[str]]]:
    """Title and cells, the header first, of the results of one pass: milliseconds and MB by image size."""
    rows = [row for row in rows if row["pass"] == which]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    found = {(row["model"], row["size"]): row for row in rows}
    cells = [["mixer", *(f"{size.partition('x')[0]}: ms (MB)" for size in sizes)]]
    for name in dict.fromkeys(row["model"] for row in rows):
        cells.append([name, *(f"{found[name, s]['ms']:.1f} ({found[name, s]['peak_mb']})" for s in sizes)])
    fastest = [min((found[name, s]["ms"], name) for name, size in found if size == s)[1] for s in sizes]
    cells.append(["fastest", *fastest])
    return which, cells
