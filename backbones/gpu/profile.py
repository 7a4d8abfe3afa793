"""Where the time of a training step goes, for a model of each of the four named families."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

from backbones.benchmark.models import Setting as ModelSetting
from backbones.gpu.pictures import picture_path, plot_kernels
from backbones.gpu.results import MEASURED, Case, Results, Setting
from backbones.gpu.speed import BATCH, SQUARE, warmed_up

MODELS = ("maxvit_t", "biformer_t", "nat_m", "overlock_xt")
TOP = 12
STEPS = 3


def cases(setting: Setting, results: Results) -> list[Case]:
    """The plan of this part."""
    if setting.tiny:
        each = [("nat_m", ModelSetting((64, 64), 1, "training"))]
    else:
        batch = BATCH[SQUARE, "training"] // 2
        each = [
            (name, ModelSetting(SQUARE, batch, "training", "amp_bfloat16", compiled, channels_last=True))
            for compiled in (False, True)
            for name in MODELS
        ]
    return [Case(title(*one), lambda one=one: profile(*one, setting, results)) for one in each]


def title(name: str, each: ModelSetting) -> str:
    """One line about a profile."""
    return f"{name}, training step, {'compiled' if each.compiled else 'eager'}"


def profile(name: str, each: ModelSetting, setting: Setting, results: Results) -> dict[str, float]:
    """A table and a picture of the kernels (on CPU: operators) that take most of the time."""
    torch.compiler.reset()
    subject = warmed_up(name, each, setting)
    cuda = setting.device.type == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with torch_profile(activities=[activity]) as recorded:
        for _ in range(STEPS):
            subject()
        if cuda:
            torch.cuda.synchronize()
    times: dict[str, float] = {}
    counts: dict[str, int] = {}
    for event in recorded.key_averages():
        spent = event.self_device_time_total if cuda else event.self_cpu_time_total
        if spent > 0:
            times[event.key] = times.get(event.key, 0.0) + spent / STEPS
            counts[event.key] = counts.get(event.key, 0) + event.count // STEPS
    total = sum(times.values())
    largest = sorted(times, key=times.__getitem__, reverse=True)[:TOP]
    what = title(name, each)
    for key in largest:
        row = {"kernel": key[:100], "ms": round(times[key] / 1000, 3), "%": round(100 * times[key] / total, 1)}
        results.add(f"{what}: {key[:100]}", MEASURED, table=what, **row, calls=counts[key])
    shares = {key: 100 * times[key] / total for key in largest}
    plot_kernels(shares, picture_path(setting, what), what)
    return {"ms": round(total / 1000, 3)}
