"""Triton's kernels of neighborhood attention: what they compute, what they compile to, and when "auto" chooses them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from backbones.ops.neighborhood import neighborhood_attention, neighborhood_av
from backbones.ops.neighborhood import triton as triton_backend

ROOT = Path(__file__).parents[3]
CASES = Path(__file__).with_name("triton_cases.py")

needs_triton = pytest.mark.skipif(not triton_backend.INSTALLED, reason="triton is not installed")


@needs_triton
def test_kernels_compute_the_definition() -> None:
    """On CPU by Triton's interpreter, which the process has to be started with."""
    interpreter = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    env = {**os.environ, **interpreter, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= 20, done.stdout[-1000:]


class Launches:
    """The kernels and arguments of launches that are not carried out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime.jit import JITFunction

        self.kernels: list[tuple] = []
        monkeypatch.setattr(JITFunction, "run", lambda fn, *args, **options: self.kernels.append((fn, args, options)))

    def resources(self, capability: int) -> dict[str, dict[str, int]]:
        """Bytes of stack of a thread and of shared memory of a block, by kernel, compiled for `sm_{capability}`."""
        from triton import knobs
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        types = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", int: "i32", float: "fp32"}
        found = {}
        for fn, args, options in self.kernels:
            values = dict(zip(fn.arg_names, args)) | {n: v for n, v in options.items() if n in fn.arg_names}
            signature, constants, attributes = {}, {}, {}
            for i, (name, parameter) in enumerate(zip(fn.arg_names, fn.params)):
                value = values[name]
                if parameter.is_constexpr:
                    signature[name], constants[(i,)] = "constexpr", value
                    continue
                signature[name] = types[value.dtype if isinstance(value, Tensor) else type(value)]
                if isinstance(value, Tensor) or (not parameter.do_not_specialize and value % 16 == 0):
                    attributes[(i,)] = [["tt.divisibility", 16]]
            source = ASTSource(fn, signature, constants, attributes)
            target = GPUTarget("cuda", capability, 32)
            built = compile(source, target, {n: options[n] for n in ("num_warps", "num_stages")})
            path = Path(knobs.cache.dir) / "kernel.cubin"
            path.write_bytes(built.asm["cubin"])
            usage = subprocess.run(
                [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", path], capture_output=True, text=True, check=True
            )
            stack = int(re.search(r"STACK:(\d+)", usage.stdout)[1])
            found[fn.__name__] = {"stack": stack, "shared": built.metadata.shared}
        return found


@needs_triton
@pytest.mark.parametrize(
    ("dtype", "dim", "capability"),
    [
        (torch.float32, 32, 80),
        (torch.bfloat16, 32, 80),
        (torch.float32, 32, 90),
        (torch.bfloat16, 64, 90),
        (torch.float32, 32, 100),
        (torch.bfloat16, 64, 100),
    ],
)
def test_kernels_fit_into_registers_and_shared_memory(
    dtype: torch.dtype, dim: int, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled to machine code, for which no device is needed: forty registers may be spilled to the stack, and
    99 KiB of shared memory is the least that devices of these generations have."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton_backend, "_unsupported", lambda *tensors: [])
    launches = Launches(monkeypatch)
    q, k, v = torch.randn(1, 28, 28, 3, 2, dim, dtype=dtype).requires_grad_().unbind(3)
    table = torch.randn(2, 13, 13, requires_grad=True)
    neighborhood_attention(q, k, v, 7, 1, table, backend="triton").sum().backward()
    weights = torch.randn(1, 2, 28, 28, 169, dtype=dtype, requires_grad=True)
    values = torch.randn(1, 2, 28, 28, triton_backend.PRODUCT_DIM, dtype=dtype, requires_grad=True)
    neighborhood_av(weights, values, 13, backend="triton").sum().backward()
    resources = launches.resources(capability)
    assert len(resources) == 6
    for name, used in resources.items():
        assert used["stack"] <= 160 and used["shared"] <= 99 * 1024, (name, used)


@needs_triton
def test_measured_tiles_are_used_where_they_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_backend, "_unsupported", lambda *tensors: [])
    tiles, key = triton_backend.Tiles(4, 16, 4, 16, 8, 1), "attention forward, float32, heads of 16, 3x3"
    launches = Launches(monkeypatch)
    q = torch.randn(1, 9, 9, 1, 16)
    with triton_backend.use_tiles({key: tiles}):
        neighborhood_attention(q, q, q, 3, backend="triton")
        neighborhood_attention(q, q, q, 5, backend="triton")
    neighborhood_attention(q, q, q, 3, backend="triton")
    names = ("TILE_H", "TILE_W", "BLOCK_H", "BLOCK_W", "num_warps", "num_stages")
    found = [tuple(options[name] for name in names) for _, _, options in launches.kernels]
    default = triton_backend.default_tiles(torch.float32, 16)
    assert found == [tiles, default, default]
    programs = triton_backend._axes("attention forward", q, [3, 3], [1, 1])[1]
    assert programs == 4  # 9 x 9 positions in tiles of 8 x 8


@pytest.mark.parametrize(("allowed", "precision"), [("ieee", "tf32x3"), ("tf32", "tf32")])
def test_float32_is_as_exact_as_torchs_products(allowed: str, precision: str) -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = allowed
    try:
        assert triton_backend._precision(torch.float32) == precision
        assert triton_backend._precision(torch.bfloat16) == "tf32"  # of the table's gradient
    finally:
        matmul.fp32_precision = before


def _cuda(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor on a CUDA device that need not exist."""
    with FakeTensorMode():
        return torch.empty(shape, dtype=dtype, device="cuda")


@pytest.mark.parametrize(
    ("dtype", "dim", "installed", "backend"),
    [
        (torch.float32, 32, True, "triton"),
        (torch.bfloat16, 64, True, "triton"),
        (torch.float32, 80, True, "tiled"),
        (torch.float64, 32, True, "tiled"),
        (torch.float32, 32, False, "tiled"),
    ],
)
def test_auto_takes_the_kernels_on_cuda(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, dim: int, installed: bool, backend: str
) -> None:
    class Chosen(Exception):
        pass

    def choose(name: str):
        def call(*args):
            raise Chosen(name)

        return call

    monkeypatch.setattr(triton_backend, "devices_have_kernels", lambda: installed)
    monkeypatch.setattr(triton_backend, "_attention", choose("triton"))
    monkeypatch.setattr(triton_backend, "_product", choose("triton"))
    monkeypatch.setattr("backbones.ops.neighborhood.tiled.plan_axis", choose("tiled"))
    q = _cuda(1, 14, 14, 2, dim, dtype=dtype)
    with pytest.raises(Chosen, match=backend):
        neighborhood_attention(q, q, q, 7, bias=_cuda(2, 13, 13))
    with pytest.raises(Chosen, match=backend):
        neighborhood_av(_cuda(1, 2, 14, 14, 25, dtype=dtype), _cuda(1, 2, 14, 14, dim, dtype=dtype), 5)
    q = torch.randn(1, 9, 9, 1, 16)
    assert neighborhood_attention(q, q, q, 3).isfinite().all()  # nor are they for the CPU


def test_the_kernels_are_for_cuda_and_their_types() -> None:
    q = torch.randn(1, 9, 9, 1, 16)
    with pytest.raises(ValueError, match='backend="triton" needs tensors on a CUDA device, not on cpu: use'):
        neighborhood_attention(q, q, q, 3, backend="triton")
    q = _cuda(1, 9, 9, 1, 80)
    with pytest.raises(ValueError, match=r"takes heads of at most 32 channels in torch\.float32, not 80: use"):
        neighborhood_attention(q, q, q, 3, backend="triton")
    with pytest.raises(ValueError, match=r"takes tensors of one type, float32, float16 or bfloat16, not .*float64"):
        neighborhood_av(_cuda(1, 1, 9, 9, 9, dtype=torch.float64), _cuda(1, 1, 9, 9, 8), 3, backend="triton")


def test_absent_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_backend, "INSTALLED", False)
    triton_backend._devices_have_kernels.cache_clear()
    assert not triton_backend.devices_have_kernels()
    q = torch.randn(1, 9, 9, 1, 16)
    with pytest.raises(ImportError, match='backend="triton" needs the triton package: pip install triton'):
        neighborhood_attention(q, q, q, 3, backend="triton")
    triton_backend._devices_have_kernels.cache_clear()
