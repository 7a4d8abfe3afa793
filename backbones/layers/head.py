"""Classifier heads: with a hidden layer, and of tokens."""

from __future__ import annotations

import torch
from timm.layers import SelectAdaptivePool2d, get_device_dtype, global_pool_nlc
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
        bias: Bias of the convolution.
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
        bias: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.in_features = in_features
        self.pool_first = pool_first
        self.hidden_size: int | None = hidden_size
        self.conv = nn.Conv2d(in_features, hidden_size, 1, bias=bias, **dd)
        self.norm = nn.BatchNorm2d(hidden_size, **dd) if norm else nn.Identity()
        self.act = act_layer()
        self.drop = nn.Dropout(drop_rate)
        self._set_classifier(num_classes, pool_type, **dd)

    def _set_classifier(self, num_classes: int, pool_type: str, device=None, dtype=None) -> None:
        assert not (self.pool_first and self.hidden_size and "cat" in pool_type), "the hidden layer takes one pooling"
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type) and not self.pool_first)
        self.num_features = (self.hidden_size or self.in_features) * self.global_pool.feat_mult()
        self.fc = _classifier(self.num_features, num_classes, device=device, dtype=dtype)

    def reset(
        self,
        num_classes: int,
        pool_type: str | None = None,
        reset_other: bool = False,
        in_features: int | None = None,
        device=None,
        dtype=None,
    ) -> None:
        """Replace the classifier, see `BaseModel.reset_classifier`.

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


class TokenPool(nn.Module):
    """Tokens `(B, P + N, C)` to one vector `(B, C)`.

    Args:
        pool_type: "token" for the first prefix token; "avg", "max" or "avgmax" over the N others; "" for no pooling.
        num_prefix_tokens: P.

    Raises:
        ValueError: Another pooling, or "token" where there is none.
    """

    def __init__(self, pool_type: str = "token", num_prefix_tokens: int = 1) -> None:
        super().__init__()
        if pool_type not in ("token", "avg", "max", "avgmax", ""):
            raise ValueError(f'global_pool must be "token", "avg", "max", "avgmax" or "", not {pool_type!r}')
        if pool_type == "token" and not num_prefix_tokens:
            raise ValueError('global_pool "token" needs a class token, which this model does not have: use "avg"')
        self.pool_type = pool_type
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return global_pool_nlc(x, self.pool_type, self.num_prefix_tokens)

    def extra_repr(self) -> str:
        return f"pool_type={self.pool_type!r}"


class TokenHead(nn.Module):
    """Pooling of tokens, dropout, classifier; in the interface of timm's heads.

    Args:
        in_features: Channels of the tokens.
        num_classes: Classes, 0 for none.
        pool_type: As in `TokenPool`; where it is "", logits are made of every token.
        num_prefix_tokens: Tokens before those of the map.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        pool_type: str = "token",
        num_prefix_tokens: int = 1,
        drop_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        self.num_features = in_features
        self.global_pool = TokenPool(pool_type, num_prefix_tokens)
        self.drop = nn.Dropout(drop_rate)
        self.fc = _classifier(in_features, num_classes, device=device, dtype=dtype)

    def reset(
        self,
        num_classes: int,
        pool_type: str | None = None,
        reset_other: bool = False,
        in_features: int | None = None,
        device=None,
        dtype=None,
    ) -> None:
        """Replace the classifier, see `BaseModel.reset_classifier`; there are no other layers to reset."""
        dd = get_device_dtype(self, device=device, dtype=dtype)
        self.num_features = self.num_features if in_features is None else in_features
        if pool_type is not None:
            self.global_pool = TokenPool(pool_type, self.global_pool.num_prefix_tokens)
        self.fc = _classifier(self.num_features, num_classes, **dd)
        self.train(self.training)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)


def _classifier(in_features: int, num_classes: int, device=None, dtype=None) -> nn.Module:
    return nn.Linear(in_features, num_classes, device=device, dtype=dtype) if num_classes > 0 else nn.Identity()
