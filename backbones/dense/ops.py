"""mmcv's compiled operators: whether they work with the installed torch, which `tools/dense/check_ops.py` proves.

A build for another torch, or one made where no torch was visible, imports like a good one and fails in the first
detector; so one operator is run at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable

import torch

REMEDY = "run `make setup-dense` to build onedl-mmcv against it"


class OperatorsError(RuntimeError):
    """mmcv's compiled operators do not work; the message is one sentence with the remedy.

    Not an `ImportError`, which mmengine's `custom_imports` would replace by one that blames the search path.
    """


def problem() -> str | None:
    """Why mmcv's compiled operators cannot be used, in one sentence with the remedy; None where they work."""
    try:
        from mmcv.ops import nms

        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9], [5.0, 5.0, 9.0, 9.0]])
        kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")
        if missing[0] == "mmcv" and missing[2]:
            return f"mmcv was installed without its compiled operators for torch {torch.__version__}: {REMEDY}."
        return f"dense prediction needs {missing[0] or error}, which is not installed: run `make setup-dense`."
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return (
            f"mmcv's compiled operators were built for another torch than the installed {torch.__version__} ({reason}):"
            f" {REMEDY}."
        )
    if kept != [0, 2]:
        return f"mmcv's compiled operators compute nonsense with torch {torch.__version__} (nms kept {kept}): {REMEDY}."
    return None


def require() -> None:
    """Make sure that mmcv's compiled operators work.

    Raises:
        OperatorsError: They do not; the message is `problem()`.
    """
    found = problem()
    if found:
        raise OperatorsError(found)


def _nms(device: torch.device) -> None:
    import torchvision
    from mmcv.ops import nms

    corners = torch.rand(64, 2, 2, device=device).mul(32).sort(dim=1).values
    boxes, scores = corners.flatten(1), torch.rand(64, device=device)
    assert nms(boxes, scores, 0.3)[1].tolist() == torchvision.ops.nms(boxes, scores, 0.3).tolist()


def _roi_align(device: torch.device) -> None:
    import torchvision
    from mmcv.ops import roi_align

    x = torch.randn(2, 4, 16, 16, device=device)
    rois = torch.tensor([[0, 1.0, 2.0, 11.0, 9.0], [1, 0.0, 0.0, 15.0, 15.0]], device=device)
    ours = roi_align(x, rois, (7, 7), 0.5, 2, "avg", True)
    torch.testing.assert_close(ours, torchvision.ops.roi_align(x, rois, (7, 7), 0.5, 2, True))


def _deformable_attention(device: torch.device) -> None:
    """Multi-scale deformable attention; its compiled form is for GPUs, so that on a CPU mmcv's PyTorch form is run."""
    from mmcv.ops import MultiScaleDeformableAttention
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    shapes = torch.tensor([[8, 8], [4, 4]], device=device)
    starts = torch.tensor([0, 64], device=device)
    layer = (
        MultiScaleDeformableAttention(32, num_heads=4, num_levels=2, num_points=4, batch_first=True).to(device).eval()
    )
    reference = torch.rand(2, 10, 2, 2, device=device)
    query, value = torch.randn(2, 10, 32, device=device), torch.randn(2, 80, 32, device=device)
    out = layer(query, value=value, reference_points=reference, spatial_shapes=shapes, level_start_index=starts)
    out.sum().backward()
    projected = layer.value_proj(value).view(2, 80, 4, 8)
    offsets = layer.sampling_offsets(query).view(2, 10, 4, 2, 4, 2) / shapes.flip(1)[None, None, None, :, None]
    weights = layer.attention_weights(query).view(2, 10, 4, 8).softmax(-1).view(2, 10, 4, 2, 4)
    at = reference[:, :, None, :, None] + offsets
    expected = layer.output_proj(multi_scale_deformable_attn_pytorch(projected, shapes, at, weights)) + query
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def _deformable_convolution(device: torch.device) -> None:
    import torchvision
    from mmcv.ops import modulated_deform_conv2d

    x, offset = torch.randn(1, 4, 9, 9, device=device), torch.randn(1, 18, 9, 9, device=device)
    mask, weight = torch.rand(1, 9, 9, 9, device=device), torch.randn(6, 4, 3, 3, device=device)
    ours = modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 1, 1)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, None, 1, 1, 1, mask)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


PROOFS: dict[str, Callable[[torch.device], None]] = {
    "nms": _nms,
    "roi_align": _roi_align,
    "deformable attention": _deformable_attention,
    "deformable convolution": _deformable_convolution,
}


def prove(device: torch.device | str) -> None:
    """Run every operator of `PROOFS` on a device and compare it with torchvision, or with PyTorch's own operators.

    Raises:
        OperatorsError: They cannot be used, or one of them fails or computes something else.
    """
    require()
    torch.manual_seed(0)
    for name, run in PROOFS.items():
        try:
            run(torch.device(device))
        except Exception as error:  # whatever a wrong build raises
            reason = " ".join(str(error).split())[:200]
            raise OperatorsError(f"mmcv's {name} does not work on {device} ({reason}): {REMEDY}.") from error


def main() -> int:
    """Prove the operators on the CPU, and on a GPU where there is one; the exit status is 0 if they work."""
    for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
        try:
            prove(device)
        except OperatorsError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"mmcv's {', '.join(PROOFS)} work on {device} with torch {torch.__version__}")
    return 0


def start(tool: str) -> int:
    """Run a command line of this package, `<module>:<function>`, if the operators work; returns its exit code."""
    found = problem()
    if found:
        print(f"error: {found}", file=sys.stderr)
        return 2
    module, _, function = tool.partition(":")
    return getattr(importlib.import_module(f"backbones.dense.{module}"), function)()
