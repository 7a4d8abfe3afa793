"""Classifier heads with a hidden layer."""

from __future__ import annotations

import torch
from timm.layers import SelectAdaptivePool2d, get_device_dtype
from torch import nn


class ConvHead(nn.Module):
    """1x1 convolution, BatchNorm, activation, pooling, classifier; in the interface of timm's heads.

    Args:
        in_features: Channels of the map.
        num_classes: Classes, 0 for none.
        hidden_size: Channels after the convolution.
        pool_type: timm's pooling name; "" for none, then logits are made at every position.
        drop_rate: Dropout before the classifier.
        act_layer: Activation of the hidden layer.
        norm: Whether there is a BatchNorm.
        pool_first: Pool before the convolution; not with a pooling that concatenates.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        hidden_size: int,
        pool_type: str = "avg",
        drop_rate: float = 0.0,
        act_layer: type[nn.Module] = nn.SiLU,
        norm: bool = True,
        pool_first: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.pool_first = pool_first
        self.hidden_size: int | None = hidden_size
        self.conv = nn.Conv2d(in_features, hidden_size, 1, bias=False, **dd)
        self.norm = nn.BatchNorm2d(hidden_size, **dd) if norm else nn.Identity()
        self.act = act_layer()
        self.drop = nn.Dropout(drop_rate)
        self._set_classifier(num_classes, pool_type, **dd)

    def _set_classifier(self, num_classes: int, pool_type: str, device=None, dtype=None) -> None:
        assert not (self.pool_first and self.hidden_size and "cat" in pool_type), "the hidden layer takes one pooling"
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type) and not self.pool_first)
        self.num_features = (self.hidden_size or self.in_features) * self.global_pool.feat_mult()
        if num_classes > 0:
            self.fc = nn.Linear(self.num_features, num_classes, device=device, dtype=dtype)
        else:
            self.fc = nn.Identity()

    def reset(
        self,
        num_classes: int,
        pool_type: str | None = None,
        reset_other: bool = False,
        in_features: int | None = None,
        device=None,
        dtype=None,
    ) -> None:
        """Replace the classifier, see `Backbone.reset_classifier`.

        Raises:
            ValueError: `in_features` changes while the hidden layer stays.
        """
        dd = get_device_dtype(self, device=device, dtype=dtype)
        if reset_other:
            self.conv, self.norm, self.act, self.hidden_size = nn.Identity(), nn.Identity(), nn.Identity(), None
        if in_features is not None and in_features != self.in_features:
            if self.hidden_size:
                raise ValueError("the head's input width is fixed by its hidden layer: reset it with reset_other=True")
            self.in_features = in_features
        pool_type = self.global_pool.pool_type if pool_type is None else pool_type
        self._set_classifier(num_classes, pool_type, **dd)
        self.train(self.training)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        if self.pool_first:
            x = self.act(self.norm(self.conv(self.global_pool(x))))
            x = self.drop(x if self.global_pool.is_identity() else x.flatten(1))
        else:
            x = self.drop(self.global_pool(self.act(self.norm(self.conv(x)))))
        if pre_logits:
            return x
        if self.global_pool.is_identity():
            return self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.fc(x)
