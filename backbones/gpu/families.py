"""Every family's smallest model on the device, against float32 on the CPU and against itself in other modes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
from backbones.gpu.results import Case, Results, Setting, Unavailable, must_be_close, relative_error
from backbones.models import family_of
from backbones.utils.profiling import count_parameters

#: The families that this package is named for, which are proven first.
FIRST = ("nat", "dinat", "overlock", "biformer", "maxvit")

#: Largest `|error| / |value|` of logits and of all gradients together, against float32.
BOUNDS = {"float32": 1e-4, "float32 gradients": 1e-3, "bfloat16": 0.05, "float16": 0.01}
CLASSES = 10


def smallest_models() -> list[str]:
    """The model with the fewest parameters of every family, the `FIRST` ones before the others."""
    members: dict[int, list[str]] = {}
    for name in backbones.list_models():
        members.setdefault(id(family_of(name)), []).append(name)
    names = [
        min(names, key=lambda name: count_parameters(timm.create_model(name, device="meta")))
        for names in members.values()
    ]
    rank = {family: i for i, family in enumerate(FIRST)}
    return sorted(names, key=lambda name: (rank.get(name.split("_")[0], len(rank)), name))


def cases(setting: Setting, results: Results) -> list[Case]:
    """The plan of this part: what matters most for all families, then the next."""
    names = smallest_models()[:1] if setting.tiny else smallest_models()
    checks: list[tuple[str, Callable[[str, Setting], dict[str, Any] | None]]] = [
        ("float32, forward and training step", float32),
        ("mixed precision in bfloat16 and float16", mixed_precision),
        ("channels_last", channels_last),
        ("gradient checkpointing", checkpointing),
        ("CUDA graph", cuda_graph),
        ("torch.compile in one graph", compiled),
    ]
    return [
        Case(f"{name}: {what}", lambda check=check, name=name: check(name, setting))
        for what, check in checks
        for name in names
    ]


@cache
def model_on_cpu(name: str, tiny: bool) -> nn.Module:
    """The model in training mode, every parameter moved off its initial value: no zero or tiny scale hides a fault."""
    torch.manual_seed(0)
    args = family_of(name).tiny if tiny else {}
    model = timm.create_model(name, num_classes=CLASSES, **args).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def build(name: str, setting: Setting) -> nn.Module:
    """A copy of the model on the device."""
    return copy.deepcopy(model_on_cpu(name, setting.tiny)).to(setting.device)


def images(setting: Setting, seed: int = 1) -> Tensor:
    """Two images, not square, of a size that no window divides."""
    size = (64, 96) if setting.tiny else (224, 240)
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def evaluate(model: nn.Module, x: Tensor) -> Tensor:
    """Logits in evaluation."""
    with torch.inference_mode():
        return model.eval()(x)


def train(model: nn.Module, x: Tensor, step: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Loss, and the gradients of all parameters in one vector; `step` runs the model in another way."""
    model.train().zero_grad(set_to_none=True)
    target = torch.arange(len(x), device=x.device) % CLASSES
    loss = F.cross_entropy((model if step is None else step)(x).float(), target)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])


@cache
def on_cpu(name: str, tiny: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, loss and gradients in float32 on the CPU."""
    setting = Setting(torch.device("cpu"), None, tiny)
    model, x = build(name, setting), images(setting)
    return evaluate(model, x).clone(), *train(model, x)


def float32(name: str, setting: Setting) -> dict[str, float]:
    """The same numbers as on the CPU, without TF32."""
    logits, loss, gradients = on_cpu(name, setting.tiny)
    model, x = build(name, setting), images(setting).to(setting.device)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        ours, (our_loss, our_gradients) = evaluate(model, x), train(model, x)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    bound = BOUNDS["float32"]
    return {
        "logits": must_be_close("the logits", relative_error(ours, logits), bound),
        "loss": must_be_close("the loss", relative_error(our_loss, loss), bound),
        "gradients": must_be_close(
            "the gradient", relative_error(our_gradients, gradients), BOUNDS["float32 gradients"]
        ),
    }


def mixed_precision(name: str, setting: Setting) -> dict[str, float]:
    """Finite, and close to float32, forward and backward."""
    logits, _, _ = on_cpu(name, setting.tiny)
    found = {}
    for kind in ("bfloat16", "float16"):
        model, x = build(name, setting), images(setting).to(setting.device)
        with torch.autocast(setting.device.type, getattr(torch, kind)):
            found[kind] = must_be_close(kind, relative_error(evaluate(model, x), logits), BOUNDS[kind])
            loss, gradients = train(model, x)
        if not (loss.isfinite() and gradients.isfinite().all()):
            count = (~gradients.isfinite()).sum().item()
            raise AssertionError(f"{kind}: the loss is {loss.item()}, and {count} gradients are not finite")
    return found


def channels_last(name: str, setting: Setting) -> dict[str, float]:
    """Weights and images in either memory format."""
    x = images(setting).to(setting.device)
    plain = evaluate(build(name, setting), x)
    model = build(name, setting).to(memory_format=torch.channels_last)
    ours = evaluate(model, x.contiguous(memory_format=torch.channels_last))
    return {"logits": must_be_close("the logits", relative_error(ours, plain), 1e-3)}


def checkpointing(name: str, setting: Setting) -> dict[str, float]:
    """The same loss and gradients, with less memory."""
    x, memory, found = images(setting).to(setting.device), [], []
    for enable in (False, True):
        model = build(name, setting)
        model.set_grad_checkpointing(enable)
        if setting.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(setting.device)
        found.append(train(model, x))
        if setting.device.type == "cuda":
            memory.append(torch.cuda.max_memory_allocated(setting.device))
    error = must_be_close("the gradient", relative_error(found[1][1], found[0][1]), BOUNDS["float32 gradients"])
    return {"gradients": error, **({"memory": round(memory[1] / memory[0], 3)} if memory else {})}


def cuda_graph(name: str, setting: Setting) -> dict[str, float]:
    """Inference captured once gives what eager mode gives for other images."""
    if setting.device.type != "cuda":
        raise Unavailable("CUDA graphs need a CUDA device")
    model, x = build(name, setting).eval(), images(setting).to(setting.device)
    other = images(setting, seed=2).to(setting.device)
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                model(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = model(x)
        x.copy_(other)
        graph.replay()
        return {"logits": must_be_close("the replayed graph", relative_error(out, model(other)), BOUNDS["float32"])}


def compiled(name: str, setting: Setting) -> dict[str, float]:
    """One graph without breaks, forward and backward, on a model of test size."""
    small = Setting(setting.device, setting.folder, True)
    model, x = build(name, small), images(small).to(setting.device)
    loss, gradients = train(model, x)
    torch.compiler.reset()
    step = torch.compile(model, fullgraph=True, backend="aot_eager" if setting.tiny else "inductor")
    our_loss, ours = train(model, x, step)
    return {
        "loss": must_be_close("the loss", relative_error(our_loss, loss), 1e-3),
        "gradients": must_be_close("the gradient", relative_error(ours, gradients), 1e-2),
    }
