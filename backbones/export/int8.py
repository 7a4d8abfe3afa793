"""ONNX models in int8, calibrated on images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from backbones.export.graphs import appearing, need, quiet


class _Reader:
    """onnxruntime's interface of calibration data: one input at a time."""

    def __init__(self, batches: Iterable[torch.Tensor]) -> None:
        self.batches: Iterator[torch.Tensor] = iter(batches)

    def get_next(self) -> dict | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch.numpy()}


def quantize(source: Path, path: Path, batches: Iterable[torch.Tensor]) -> None:
    """Write an ONNX file whose convolutions and matrix products are in int8.

    Weights are quantised channel by channel, activations by the range that they have on the calibration images.

    Args:
        source: The ONNX file in float32.
        path: Where to write.
        batches: Images `(B, C, H, W)` of one size, as the file takes them.
    """
    quantization, shapes = need("onnxruntime.quantization", "onnxruntime.quantization.shape_inference")
    with tempfile.TemporaryDirectory() as folder, quiet(), appearing(path) as aside:
        prepared = Path(folder) / "prepared.onnx"
        shapes.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            aside,
            _Reader(batches),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
