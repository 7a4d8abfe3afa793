"""Multi-scale tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData

from backbones.dense.register import MODELS


@MODELS.register_module()
class ScoreTTAModel(BaseTTAModel):
    """The multi-scale test, with flips, of a segmentor whose outputs are scores, such as Mask2Former's.

    Averages the scores of all scales, as Mask2Former's authors do. mmseg's `SegTTAModel` takes outputs for logits and
    averages their softmax, which is flat where they lie between 0 and 1.
    """

    def merge_preds(self, data_samples_list: Sequence[Sequence[Any]]) -> list[Any]:
        """One `SegDataSample` an image, of those of its scales, whose `seg_logits` are `(classes, H, W)`."""
        merged = []
        for samples in data_samples_list:
            scores = torch.stack([sample.seg_logits.data for sample in samples]).mean(0)
            first = samples[0]
            first.set_data({"pred_sem_seg": PixelData(data=scores.argmax(0, keepdim=True))})
            merged.append(first)
        return merged
