"""Heads for mmdet.

Configs import them by name: `custom_imports = dict(imports=["backbones.dense", "backbones.dense.heads"])`.
"""

from __future__ import annotations

from mmdet.models.dense_heads import SSDHead as _SSDHead

from backbones.dense.register import MODELS


@MODELS.register_module()
class SSDHead(_SSDHead):
    """mmdet's head of that name, arguments included, made to predict again.

    mmdet's common prediction asks every head for `loss_cls`; this one computes its loss without such a module.
    """

    loss_cls = None
