"""What a detector or segmentor costs: parameters and multiply-adds of its config, without computing anything large."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from backbones.utils.profiling import counting

NUM_BOXES = 1000  # regions of interest for the box heads, as in the published counts
NUM_MASKS = 100  # and for the mask heads


def build_model(cfg: Config, device: torch.device | str | None = None) -> nn.Module:
    """The config's detector or segmentor, not initialised; on the meta device it takes no memory.

    Args:
        cfg: A config of mmdet or mmseg, read with its custom imports.
        device: Where to make the parameters.
    """
    with torch.device(device or "cpu"), MODELS.switch_scope_and_registry(scope=cfg.default_scope) as registry:
        return registry.build(cfg.model)


def count_macs(model: nn.Module, input_size: Sequence[int]) -> int:
    """Multiply-adds of one image's forward pass: convolutions, linears and attention products.

    Two-stage detectors are counted as published: 1000 regions (or the learned proposals) for every box head, 100 for
    every mask head; RoIAlign, NMS and auxiliary heads are left out.

    Args:
        model: A detector or segmentor on the meta device; a head of Mask2Former is moved to the CPU and run.
        input_size: `(height, width)` of the image.

    What follows the neck of a detector of DETR's kind is moved to the CPU and run, too.
    """
    model.eval()
    image = torch.empty(1, 3, *input_size, device="meta")
    with counting() as counter:
        features = model.backbone(image)
        if getattr(model, "neck", None) is not None:
            features = model.neck(features)
        query_head = getattr(model, "panoptic_head", None) or getattr(model, "decode_head", None)
        if hasattr(model, "forward_transformer"):
            _run_transformer(model, features)
        elif hasattr(query_head, "transformer_decoder"):
            _run_query_head(query_head, features)
        elif query_head is not None:
            query_head(features)
        else:
            head = getattr(model, "rpn_head", None) or model.bbox_head
            learned = getattr(head, "num_proposals", 0)  # Sparse R-CNN's proposals are parameters
            if not learned:
                head(features)
            if getattr(model, "roi_head", None) is not None:
                _run_roi_head(model.roi_head, learned)
    return counter.get_total_flops() // 2


def _run_roi_head(roi_head: nn.Module, learned: int = 0) -> None:
    """Box and mask heads (of all stages of a cascade) on regions of the size that RoIAlign gives.

    Heads of `learned` proposals also take a feature of each.
    """
    runs = ((roi_head.bbox_head, roi_head.bbox_roi_extractor, learned or NUM_BOXES),)
    if roi_head.with_mask:
        runs += ((roi_head.mask_head, roi_head.mask_roi_extractor, NUM_MASKS),)
    for heads, extractors, count in runs:
        if not isinstance(heads, nn.ModuleList):
            heads, extractors = [heads], [extractors]
        for head, extractor in zip(heads, extractors):
            side = extractor.roi_layers[0].output_size
            regions = torch.empty(count, extractor.out_channels, *side, device="meta")
            head(regions, *([regions.new_empty(1, count, extractor.out_channels)] if learned else []))


def _run_query_head(head: nn.Module, features: Sequence[torch.Tensor]) -> None:
    """A head of Mask2Former, whose operators read their inputs' values, so that it cannot run on the meta device."""
    head(*_on_cpu(head, features, stride=4))


def _run_transformer(model: nn.Module, features: Sequence[torch.Tensor]) -> None:
    """Encoder, decoder and head of a detector of DETR's kind, which cannot run on the meta device either."""
    inputs = model.forward_transformer(*_on_cpu(model, features, stride=8))
    model.bbox_head(inputs["hidden_states"], inputs["references"])


def _on_cpu(module: nn.Module, features: Sequence[torch.Tensor], stride: int) -> tuple[list[torch.Tensor], list]:
    """Moves a module to the CPU, with some weights or other; maps of these shapes, and their image's description."""
    from mmdet.structures import DetDataSample

    module.to_empty(device="cpu")
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.02)
    features = [torch.zeros(feature.shape) for feature in features]
    height, width = (stride * side for side in features[0].shape[2:])
    sample = DetDataSample(metainfo={"img_shape": (height, width), "batch_input_shape": (height, width)})
    return features, [sample]
