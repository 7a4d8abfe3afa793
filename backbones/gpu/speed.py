"""Speed and memory: operators against other implementations, models against Swin-T, ConvNeXt-T and timm's MaxViT-T."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from backbones.benchmark.cli import model_row
from backbones.benchmark.measure import interleave, machine_peak, peak_memory, ratio
from backbones.benchmark.models import ModelSubject
from backbones.benchmark.models import Setting as ModelSetting
from backbones.benchmark.ops import Case as OpCase
from backbones.benchmark.ops import OpSubject, attention_case, product_case
from backbones.gpu.pictures import picture_path, plot_ratios
from backbones.gpu.results import FAILS, MEASURED, Case, Results, Setting, first_line
from backbones.ops.neighborhood import natten, triton
from backbones.ops.neighborhood.triton import Tiles
from backbones.utils.files import write_json

Forms = dict[str, Callable[..., Tensor]]

YARDSTICK, TIMMS_MAXVIT = "swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224"
#: Least throughput in compiled training, bfloat16, 224 pixels, over Swin-T's; for MaxViT over timm's own.
TRAINING = {"nat_m": 1.2, "dinat_t": 0.8, "biformer_t": 1.2, "overlock_xt": 0.8, "maxvit_t": 1.25}
INFERENCE = 1.3
#: Least speed of neighborhood attention, forward and backward, over FlexAttention, and over natten without bias.
OPERATORS = {"FlexAttention": 3.0, "natten": 1.0}
MODELS = (YARDSTICK, *TRAINING, TIMMS_MAXVIT, "convnext_tiny")

SQUARE, DETECTION = (224, 224), (800, 1216)
BATCH = {
    (SQUARE, "training"): 256,
    (SQUARE, "inference"): 512,
    (DETECTION, "training"): 16,
    (DETECTION, "inference"): 32,
}

CANDIDATES = [
    Tiles(*shape, warps, stages)
    for shape in ((8, 8, 2, 16), (8, 8, 4, 16), (8, 8, 8, 8), (4, 16, 4, 16), (8, 16, 4, 16))
    for warps, stages in product((4, 8), (1, 2))
]
#: What tiles are searched for: operator, type, width of the heads, kernel, map.
CALLS = [
    (f"{operator} {direction}", dtype, 32, kernel, size)
    for dtype in (torch.bfloat16, torch.float32)
    for operator, kernel, size in (("attention", 7, 56), ("product", 13, 28), ("product", 5, 28))
    for direction in ("forward", "backward")
]


def model_settings(tiny: bool) -> list[ModelSetting]:
    """What models are timed in, in order of worth."""
    if tiny:
        return [ModelSetting((64, 64), 1, "training", "amp_bfloat16")]
    precisions = {"training": "amp_bfloat16", "inference": "bfloat16"}
    return [
        ModelSetting(size, BATCH[size, task], task, precisions[task], compiled, channels_last=True)
        for size, compiled in ((SQUARE, True), (SQUARE, False), (DETECTION, True), (DETECTION, False))
        for task in ("training", "inference")
    ]


def cases(setting: Setting, results: Results) -> list[Case]:
    """The plan of this part."""
    first, *rest = [
        Case(describe(each), partial(time_models, each, setting, results)) for each in model_settings(setting.tiny)
    ]
    return [
        Case("best tiles of the kernels", partial(search_tiles, setting, results)),
        first,
        Case("operators", partial(time_operators, setting, results)),
        *rest,
    ]


def describe(setting: ModelSetting) -> str:
    """One line about a setting of models."""
    mode = "compiled" if setting.compiled else "eager"
    return f"{setting.task}, {setting.size[0]}x{setting.size[1]}, {setting.precision}, {mode}"


# --------------------------------------------------------------------------------------------------------------- tiles


def search_tiles(setting: Setting, results: Results) -> dict[str, Any]:
    """Time all candidates, use the best from here on, and write them in the form of the package's table."""
    best: dict[str, Tiles] = {}
    for operator, dtype, dim, kernel, size in [CALLS[1], CALLS[2]] if setting.tiny else CALLS:
        key = triton.tuning_key(operator, dtype, dim, (kernel, kernel))
        timings: dict[Tiles, float] = {}
        default = triton.default_tiles(dtype, dim)
        for tiles in dict.fromkeys([default, *CANDIDATES[: 1 if setting.tiny else None]]):
            with triton.use_tiles({key: tiles}):
                try:
                    timings[tiles] = _seconds(operator, dtype, dim, kernel, size, setting)
                except Exception as error:  # it needs more registers or shared memory than there are
                    print(f"{key}, {tiles}: {first_line(error)}", flush=True)
        if not timings:
            raise RuntimeError(f"{key}: no candidate runs, see the log")
        best[key] = min(timings, key=timings.__getitem__)
        row = {"kernel": key, "best": str(tuple(best[key])), "ms": round(1000 * timings[best[key]], 4)}
        if default in timings:
            row["default ms"] = round(1000 * timings[default], 4)
        results.add(f"tiles, {key}", MEASURED, table="best tiles", **row)
    name = triton.capability(setting.device)
    triton.TUNED.setdefault(name, {}).update(best)
    write_json(setting.folder / "triton_tiles.json", {name: best})
    return {}


def _seconds(operator: str, dtype: torch.dtype, dim: int, kernel: int, size: int, setting: Setting) -> float:
    """Of one call of a kernel; of a backward pass with its forward pass, which is the same for all candidates."""
    heads, batch, size, kernel = (1, 1, 5, 3) if setting.tiny else (4, 64, size, kernel)
    if operator.startswith("attention"):
        case = attention_case(size, size, heads, dim, kernel, 1, batch)
    else:
        case = product_case(size, size, heads, dim, kernel, batch)
    call = partial(case.ours, backend="triton")
    subject = OpSubject(call, case.inputs(setting.device, dtype), "backward" in operator)
    rounds, seconds = (1, 0.0) if setting.tiny else (3, 0.03)
    return interleave([subject], setting.device, rounds, seconds, warmup=1)[0].seconds


# ----------------------------------------------------------------------------------------------------------- operators


def flex_attention(height: int, width: int, kernel: int, dilation: int, device: torch.device) -> Callable[..., Tensor]:
    """Neighborhood attention by PyTorch's FlexAttention, compiled, with a block mask and the table as a score."""
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as flex

    def start(i: Tensor, size: int) -> Tensor:
        group, position = i % dilation, i // dilation
        length = (size - 1 - group) // dilation + 1
        return torch.minimum((position - kernel // 2).clamp(min=0), length - kernel)

    def inside(query: Tensor, key: Tensor, size: int) -> Tensor:
        slot = key // dilation - start(query, size)
        return (query % dilation == key % dilation) & (slot >= 0) & (slot < kernel)

    def mask(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return inside(query // width, key // width, height) & inside(query % width, key % width, width)

    blocks = create_block_mask(mask, None, None, height * width, height * width, device=device)
    compiled = torch.compile(flex, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        def score(value: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
            if bias is None:
                return value
            row = (key // width) // dilation - (query // width) // dilation + kernel - 1
            col = (key % width) // dilation - (query % width) // dilation + kernel - 1
            # Scores are asked for outside of the window too, and not used.
            return value + bias[h, row.clamp(0, 2 * kernel - 2), col.clamp(0, 2 * kernel - 2)]

        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
        out = compiled(q, k, v, score_mod=None if bias is None else score, block_mask=blocks)
        return out.transpose(1, 2).unflatten(1, (height, width))

    return attend


#: Height, width, heads, kernel, dilation and batch of the attention that is timed, with heads of 32.
ATTENTION = [(56, 56, 2, 7, 1, 128), (56, 56, 2, 7, 8, 128), (28, 28, 4, 7, 1, 128), (200, 304, 2, 7, 1, 8)]
#: Height, width, kernel and batch of ContMix's product, with 4 heads of 32.
PRODUCTS = [(28, 28, 13, 64), (28, 28, 5, 64), (100, 152, 13, 4)]


def operator_forms(setting: Setting, dtype: torch.dtype) -> Iterator[tuple[str, OpCase, tuple[Tensor, ...], Forms]]:
    """Name, case, inputs, and what computes the same, ours first."""
    for height, width, heads, kernel, dilation, batch in [] if setting.tiny else ATTENTION:
        case = attention_case(height, width, heads, 32, kernel, dilation, batch)
        for biased in (True, False):
            inputs = case.inputs(setting.device, dtype)[: None if biased else 3]
            forms = _backends(case) | ({"unfolded": case.plain} if biased else {})
            forms["FlexAttention"] = flex_attention(height, width, kernel, dilation, setting.device)
            if not biased and natten.runs_fast(*inputs, (kernel, kernel)):
                forms["natten"] = partial(case.ours, backend="natten")
            yield case.name + ("" if biased else ", no bias"), case, inputs, forms
    for height, width, kernel, batch in [(5, 5, 3, 1)] if setting.tiny else PRODUCTS:
        case = product_case(height, width, 1 if setting.tiny else 4, 8 if setting.tiny else 32, kernel, batch)
        yield case.name, case, case.inputs(setting.device, dtype), _backends(case) | {"unfolded": case.plain}


def _backends(case: OpCase) -> Forms:
    names = {"ours": "triton", "definition": "reference", "tiles": "tiled"}
    return {form: partial(case.ours, backend=backend) for form, backend in names.items()}


def time_operators(setting: Setting, results: Results) -> dict[str, Any]:
    """The kernels against the definition, the unfolded form, one dense product per tile, FlexAttention and natten."""
    dtype = torch.float32 if setting.tiny else torch.bfloat16
    machine = machine_peak(setting.device, dtype, seconds=0.02 if setting.tiny else 0.5)
    for (what, case, inputs, forms), backward in product(operator_forms(setting, dtype), (True, False)):
        name = f"{what}, {'forward and backward' if backward else 'forward'}"
        subjects, errors = {}, {}
        for form, call in forms.items():
            try:
                subjects[form] = OpSubject(call, inputs, backward)
                subjects[form]()
            except Exception as error:  # one form out of memory must not hide the others
                subjects.pop(form, None)
                errors[form] = first_line(error)
                print(f"{name}, {form}: {errors[form]}", flush=True)
        if "ours" in errors:
            results.add(name, FAILS, error=errors["ours"])
            continue
        rounds, seconds = (1, 0.0) if setting.tiny else (5, 0.1)
        timings = dict(zip(subjects, interleave(list(subjects.values()), setting.device, rounds, seconds)))
        row: dict[str, Any] = {"operator": name, "ms": round(1000 * timings["ours"].seconds, 4)}
        for form in list(forms)[1:]:
            row[f"times {form}"] = errors.get(form) or round(ratio(timings["ours"], timings[form])[0], 2)
        row["peak MB"] = round(peak_memory(subjects["ours"], setting.device) / 1e6, 1)
        least = machine.least_seconds(case.flops * (3.5 if backward else 1), _traffic(inputs, backward))
        row["share of roofline"] = round(least / timings["ours"].seconds, 3)
        results.add(name, MEASURED, table="operators, ours that many times as fast", **row)
        for form, bound in OPERATORS.items():
            if backward and form in timings and "56x56" in what and "dilation 1" in what:
                results.bound(f"{name}: times as fast as {form}", ratio(timings["ours"], timings[form])[0], bound)
        del subjects
    return {}


def _traffic(inputs: Sequence[Tensor], backward: bool) -> int:
    """Bytes that must at least be moved: inputs read and an output written, and for gradients as much twice again."""
    size = sum(x.numel() * x.element_size() for x in inputs) + inputs[-1].numel() * inputs[-1].element_size()
    return size * (3 if backward else 1)


# -------------------------------------------------------------------------------------------------------------- models


def warmed_up(name: str, each: ModelSetting, setting: Setting) -> ModelSubject:
    """A model that has run, with half the batch, and half of that, where it takes too much memory."""
    args = {"dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1)} if setting.tiny else {}
    batch = each.batch
    while True:
        try:
            subject = ModelSubject(name, replace(each, batch=batch), setting.device, args)
            for _ in range(1 if setting.tiny else 3):
                subject()
            return subject
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
        subject = None
        gc.collect()
        torch.cuda.empty_cache()


def time_models(each: ModelSetting, setting: Setting, results: Results) -> dict[str, Any]:
    """All models in turns in one setting; one that fails does not stop the others."""
    title, subjects = describe(each), {}
    torch.compiler.reset()
    for name in ("nat_m", "dinat_m") if setting.tiny else MODELS:
        try:
            subjects[name] = warmed_up(name, each, setting)
        except Exception as error:
            results.add(f"{title}: {name}", FAILS, error=first_line(error))
    rounds, seconds = (1, 0.0) if setting.tiny else (5, 0.5)
    timings = dict(zip(subjects, interleave(list(subjects.values()), setting.device, rounds, seconds, warmup=1)))
    peaks = machine_peak(setting.device, torch.bfloat16, seconds=0.05 if setting.tiny else 0.5)
    rows = {}
    for name, subject in subjects.items():
        memory = peak_memory(subject, setting.device)
        row = model_row(subject, timings[name], timings.get(YARDSTICK), memory, peaks)
        if YARDSTICK in timings:
            # Batches may differ.
            share = subject.setting.batch / subjects[YARDSTICK].setting.batch
            row |= {key: round(row[key] * share, 3) for key in ("ratio", "ratio_low", "ratio_high")}
        row["mb_per_gmac"] = round(memory / 1e6 / (row["gmacs"] * subject.setting.batch), 2)
        keys = ("model", "batch", "img_per_s", "ms_p50", "peak_mb", "mb_per_gmac", "gflop_per_s", "roofline", "ratio")
        rows[name] = row
        results.add(f"{title}: {name}", MEASURED, table=title, **{key: row[key] for key in keys if key in row})
    _check_targets(each, title, rows, results)
    if YARDSTICK in rows:
        plot_ratios(
            {name: row["ratio"] for name, row in rows.items()},
            _targets(each) or {},
            picture_path(setting, title),
            f"{title}: images/s against Swin-T",
        )
    return {}


def _targets(each: ModelSetting) -> dict[str, float] | None:
    """Targets of the setting; that of MaxViT is against timm's."""
    if not each.compiled or each.size != SQUARE:
        return None
    return TRAINING if each.task == "training" else dict.fromkeys(TRAINING, INFERENCE)


def _check_targets(each: ModelSetting, title: str, rows: dict[str, dict[str, Any]], results: Results) -> None:
    for name, bound in (_targets(each) or {}).items():
        against = TIMMS_MAXVIT if name == "maxvit_t" else YARDSTICK
        if name not in rows or against not in rows:
            continue
        speed = rows[name]["img_per_s"] / rows[against]["img_per_s"]
        results.bound(f"{title}: {name} over {against}", speed, bound)
        if YARDSTICK in rows:
            memory = rows[name]["mb_per_gmac"] / rows[YARDSTICK]["mb_per_gmac"]
            results.bound(f"{title}: memory per GMAC of {name} over Swin-T's", memory, 1.0, least=False)
