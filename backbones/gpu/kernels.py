"""Every Triton kernel against the definition in double precision, forward and backward."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones.gpu.results import ROOT, Case, Results, Setting, Unavailable, must_be_close, relative_error
from backbones.ops.neighborhood import neighborhood_attention, neighborhood_av, use_backend

Pair = tuple[int, int]

#: Largest `|error| / |value|` of outputs and gradients: of the type itself, and of weights rounded to it.
BOUNDS = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


class Shape(NamedTuple):
    """What an operator is called with; `product` applies given weights, else it is attention."""

    batch: int
    height: int
    width: int
    heads: int
    dim: int
    kernel: Pair
    dilation: Pair = (1, 1)
    stride: Pair = (1, 1)
    biased: bool = True
    product: bool = False
    scattered: bool = False

    def __str__(self) -> str:
        what = "product" if self.product else "attention"
        extras = [f"d{self.dilation[0]}x{self.dilation[1]}"] * (self.dilation != (1, 1))
        extras += [f"s{self.stride[0]}x{self.stride[1]}"] * (self.stride != (1, 1))
        extras += ["bias"] * (self.biased and not self.product) + ["scattered in memory"] * self.scattered
        size = f"{self.batch}x{self.height}x{self.width}, {self.heads} heads of {self.dim}"
        return " ".join([what, size + ",", f"k{self.kernel[0]}x{self.kernel[1]}", *extras])


ATTENTION = [
    Shape(2, 56, 56, 2, 32, (7, 7)),
    Shape(2, 56, 56, 2, 32, (7, 7), biased=False),
    Shape(1, 57, 61, 3, 32, (7, 7), (8, 8)),
    Shape(1, 33, 47, 2, 32, (7, 5), (2, 3)),
    Shape(1, 14, 14, 4, 32, (13, 13)),
    Shape(1, 7, 7, 8, 32, (7, 7)),
    Shape(1, 45, 38, 2, 20, (11, 11), (1, 2)),
    Shape(1, 40, 40, 2, 32, (7, 7), stride=(2, 4)),
    Shape(1, 49, 42, 2, 16, (7, 7), stride=(7, 7)),
    Shape(2, 30, 31, 2, 24, (9, 9), scattered=True),
    Shape(1, 200, 304, 2, 32, (7, 7)),
]
WIDE = [Shape(1, 28, 28, 2, 64, (7, 7)), Shape(1, 31, 29, 2, 48, (5, 5), (2, 2))]  # heads too wide for float32
PRODUCTS = [
    Shape(2, 28, 28, 4, 32, (13, 13), product=True),
    Shape(1, 29, 41, 4, 32, (5, 5), product=True),
    Shape(1, 33, 35, 2, 40, (7, 3), (2, 3), product=True),
    Shape(1, 20, 20, 2, 64, (17, 17), product=True, scattered=True),
]
TINY = [Shape(1, 5, 9, 1, 16, (3, 3)), Shape(1, 4, 5, 1, 8, (3, 3), product=True, scattered=True)]


def cases(setting: Setting, results: Results) -> list[Case]:
    """The plan of this part."""
    types = [torch.float32, torch.float16] if setting.tiny else [torch.float32, torch.bfloat16, torch.float16]
    sweep = [
        Case(f"{str(dtype)[6:]}: {shape}", lambda shape=shape, dtype=dtype: compare(shape, dtype, setting.device))
        for dtype in types
        for shape in (TINY if setting.tiny else ATTENTION + WIDE * (dtype != torch.float32) + PRODUCTS)
    ]
    count, size = (1, 1) if setting.tiny else (100, 10)
    drawn = [
        Case(
            f"random cases {first + 1} to {first + size}",
            lambda first=first: compare_drawn(first, size, types, setting),
        )
        for first in range(0, count, size)
    ]
    return [
        *sweep,
        *drawn,
        Case("equal results in five runs", lambda: deterministic(setting)),
        Case("torch.compile, sizes that vary", lambda: compiled(setting)),
        *([] if setting.tiny else [Case("the kernels' own test file", test_file)]),
        Case("compute-sanitizer memcheck", lambda: sanitized(setting, "memcheck")),
        Case("compute-sanitizer racecheck", lambda: sanitized(setting, "racecheck")),
    ]


def inputs_of(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of an operator: q, k, v and a table, or weights and values."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*size: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*size, generator=generator, device=device).to(dtype)

    b, h, w, heads, dim = shape[:5]
    (kh, kw), (sh, sw) = shape.kernel, [2 * k - 1 for k in shape.kernel]
    if shape.product:
        values = normal(b, h, w, heads, dim) if shape.scattered else normal(b, heads, h, w, dim).permute(0, 2, 3, 1, 4)
        return normal(b, heads, h, w, kh * kw).float().softmax(-1).to(dtype), values.permute(0, 3, 1, 2, 4)
    if shape.scattered:
        maps = [normal(b, heads, dim, h, w).permute(0, 3, 4, 1, 2) for _ in range(3)]
    else:
        maps = list(normal(b, h, w, 3, heads, dim).unbind(3))
    return *maps, *([normal(heads, sh, sw, dtype=torch.float32)] if shape.biased else [])


def call_of(shape: Shape, backend: str) -> Callable[..., Tensor]:
    """The operator, by a backend."""
    if shape.product:
        return lambda attn, v: neighborhood_av(attn, v, shape.kernel, shape.dilation, backend)

    def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor | None = None) -> Tensor:
        return neighborhood_attention(
            q, k, v, shape.kernel, shape.dilation, table, backend=backend, stride=shape.stride
        )

    return attend


def output_and_gradients(call: Callable[..., Tensor], inputs: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    """What a call gives, and the gradients of its inputs for this gradient of its output."""
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    out = call(*inputs)
    return [out, *torch.autograd.grad(out, inputs, grad)]


def grad_for(shape: Shape, inputs: tuple[Tensor, ...]) -> Tensor:
    """A random gradient of the output, which has the shape of the queries or of the values."""
    like = inputs[1] if shape.product else inputs[0]
    generator = torch.Generator(like.device).manual_seed(1)
    return torch.randn(like.shape, generator=generator, device=like.device).to(like.dtype)


def compare(shape: Shape, dtype: torch.dtype, device: torch.device, seed: int = 0) -> dict[str, Any]:
    """Output and gradients of the kernels against the definition; what they do not write is NaN."""
    inputs = inputs_of(shape, dtype, device, seed)
    grad = grad_for(shape, inputs)
    exact = output_and_gradients(call_of(shape, "reference"), tuple(x.double() for x in inputs), grad.double())
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills memory that is not yet written with NaN
    try:
        ours = output_and_gradients(call_of(shape, "triton"), inputs, grad)
    finally:
        torch.use_deterministic_algorithms(False)
    names = ["output", *(["weights", "values"] if shape.product else ["queries", "keys", "values", "table"])]
    errors = [
        must_be_close(name if name == "output" else f"gradient of the {name}", relative_error(a, b), BOUNDS[dtype])
        for name, a, b in zip(names, ours, exact)
    ]
    return {"error_max": max(errors)}


def draw(number: int, tiny: bool) -> tuple[Shape, int]:
    """A random call, and the number of its type."""
    rng = random.Random(number)
    product = rng.random() < 0.3
    kernel = tuple(rng.choice((3, 3, 5) if tiny else (3, 5, 7, 7, 9, 11, 13)) for _ in range(2))
    dilation = tuple(rng.choice((1, 1, 1, 2, 3)) if not tiny else 1 for _ in range(2))
    stride = (1, 1) if product or rng.random() < 0.6 else tuple(rng.randint(1, k) for k in kernel)
    sides = [k * d + rng.randint(0, 5 if tiny else 30) for k, d in zip(kernel, dilation)]
    heads, batch = (1, 1) if tiny else (rng.randint(1, 4), rng.randint(1, 3))
    dim = rng.choice((8, 16)) if tiny else rng.randint(4, 32)
    scattered = rng.random() < 0.3
    return Shape(
        batch, *sides, heads, dim, kernel, dilation, stride, rng.random() < 0.5, product, scattered
    ), rng.randint(0, 2)


def compare_drawn(first: int, count: int, types: list[torch.dtype], setting: Setting) -> dict[str, Any]:
    """`compare` for some of the random calls; an error names the one."""
    worst = 0.0
    for number in range(first, first + count):
        shape, kind = draw(number, setting.tiny)
        dtype = types[kind % len(types)]
        try:
            worst = max(worst, compare(shape, dtype, setting.device, number)["error_max"] / BOUNDS[dtype])
        except Exception as error:
            raise type(error)(f"case {number}, {dtype}, {shape}: {error}") from error
    return {"error_of_bound": round(worst, 3)}


def deterministic(setting: Setting) -> None:
    """Nothing is summed in an order that varies."""
    for shape in TINY if setting.tiny else [ATTENTION[0], ATTENTION[3], PRODUCTS[0]]:
        inputs = inputs_of(shape, torch.float32, setting.device)
        first, *others = (
            output_and_gradients(call_of(shape, "triton"), inputs, grad_for(shape, inputs))
            for _ in range(2 if setting.tiny else 5)
        )
        for other in others:
            if not all(torch.equal(a, b) for a, b in zip(first, other, strict=True)):
                raise AssertionError(f"{shape}: two runs differ")


class Mixer(nn.Module):
    """Both operators in a row."""

    def __init__(self, dim: int = 32, kernel: int = 7) -> None:
        super().__init__()
        self.kernel = kernel
        self.qkv, self.taps = nn.Linear(dim, 3 * dim), nn.Linear(dim, kernel**2)
        self.table = nn.Parameter(torch.randn(1, 2 * kernel - 1, 2 * kernel - 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(3, (3, 1, -1)).unbind(3)
        x = neighborhood_attention(q, k, v, self.kernel, 1, self.table)
        return neighborhood_av(self.taps(x.flatten(3)).softmax(-1)[:, None], x.permute(0, 3, 1, 2, 4), self.kernel)


def compiled(setting: Setting) -> dict[str, Any]:
    """One graph for all sizes, equal to eager mode; the operators are in it as they are."""
    torch.manual_seed(0)
    model = (Mixer(16, 3) if setting.tiny else Mixer()).to(setting.device)
    backend = "aot_eager" if setting.tiny else "inductor"
    step = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    worst = 0.0
    with use_backend("triton"):
        for height, width in ((3, 5),) if setting.tiny else ((28, 28), (33, 41), (56, 40)):
            x = torch.randn(1 if setting.tiny else 2, height, width, model.qkv.in_features, device=setting.device)
            for ours, eager in zip(_step(step, x, model), _step(model, x, model), strict=True):
                worst = max(worst, must_be_close("the compiled model", relative_error(ours, eager), 1e-4))
    return {"error_max": worst}


def _step(call: Callable[[Tensor], Tensor], x: Tensor, model: nn.Module) -> list[Tensor]:
    """Output, and gradients of the image and of all weights."""
    x = x.clone().requires_grad_()
    out = call(x)
    return [out, *torch.autograd.grad(out.square().mean(), [x, *model.parameters()])]


def test_file() -> dict[str, Any]:
    """The tests that are run by Triton's interpreter elsewhere, on this device."""
    files = sorted((ROOT / "tests").rglob("triton_cases.py"))
    if not files:
        raise Unavailable("the clone's tests are not here")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    if done.returncode:
        failed = re.search(r"^(FAILED|ERROR|E ) .*", done.stdout, re.MULTILINE)
        raise AssertionError(failed[0] if failed else f"pytest ended with exit code {done.returncode}")
    return {"passed": int(re.search(r"(\d+) passed", done.stdout)[1])}


SANITIZED = """
import torch
from backbones.gpu.kernels import ATTENTION, PRODUCTS, call_of, grad_for, inputs_of, output_and_gradients
for shape in (ATTENTION[3], ATTENTION[7], ATTENTION[9], PRODUCTS[1]):
    inputs = inputs_of(shape, torch.float16, torch.device("cuda"))
    output_and_gradients(call_of(shape, "triton"), inputs, grad_for(shape, inputs))
torch.cuda.synchronize()
"""


def sanitized(setting: Setting, tool: str) -> None:
    """No kernel reads or writes beyond its tensors, and none races."""
    if setting.device.type != "cuda" or shutil.which("compute-sanitizer") is None:
        raise Unavailable("compute-sanitizer is not installed, or there is no CUDA device")
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr, flush=True)
    if "Device not supported" in done.stdout:
        raise Unavailable("compute-sanitizer does not support this device")
    if done.returncode:
        report = re.search(r"^=+ (?!COMPUTE).*\S", done.stdout, re.MULTILINE)
        raise AssertionError(report[0] if report else f"compute-sanitizer ended with exit code {done.returncode}")
