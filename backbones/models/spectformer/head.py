"""The head of hierarchical SpectFormers: a class token that attends to the last map once."""

from __future__ import annotations

import torch
from timm.layers import SelectAdaptivePool2d, get_device_dtype, register_notrace_module
from torch import nn

from backbones.layers.pointwise import Linear, Mlp
from backbones.ops.attention import biased_attention


class ClassAttentionBlock(nn.Module):
    """A class token attends to itself and the other tokens, then has an MLP (CaiT, arXiv 2103.17239, section 3).

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        mlp_ratio: Hidden width of the MLP is `int(C * mlp_ratio)`.
        norm_eps: Epsilon of both LayerNorms.

    Maps the class token `(B, 1, C)` and the others `(B, N, C)` to the class token.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, norm_eps: float = 1e-6, device=None, dtype=None
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps, **dd)
        self.q = nn.Linear(dim, dim, **dd)
        self.kv = Linear(dim, 2 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd)

    def forward(self, token: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = self.norm1(torch.cat([token, x], dim=1))
        q = self.q(x[:, :1]).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        token = token + self.proj(biased_attention(q, k, v).transpose(1, 2).flatten(2))
        return token + self.mlp(self.norm2(token))


class TokenClassifier(nn.Module):
    """The largest logit of each class among those of all tokens: `(B, N, C)` to `(B, num_classes)`."""

    def __init__(self, in_features: int, num_classes: int, device=None, dtype=None) -> None:
        super().__init__()
        self.fc = nn.Linear(in_features, num_classes, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x).amax(1)


@register_notrace_module
class ClassAttentionHead(nn.Module):
    """Pooling to a class token, `ClassAttentionBlock`, LayerNorm, dropout, classifier; in timm's interface of heads.

    Args:
        in_features: Channels of the map.
        num_classes: Classes, 0 for none.
        num_heads: Heads of attention.
        pool_type: Pooling that makes the class token: "avg", "max" or "avgmax"; "" for no class token, then logits are
            made at every position.
        drop_rate: Dropout before the classifier.
        norm_eps: Epsilon of the LayerNorms.
        aux: Add a classifier of every token, see `SpectFormer`; there is none without pooling or classes.

    Raises:
        ValueError: A pooling that concatenates.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_heads: int,
        pool_type: str = "avg",
        drop_rate: float = 0.0,
        norm_eps: float = 1e-6,
        aux: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.with_aux = aux
        self.block: ClassAttentionBlock | None = ClassAttentionBlock(in_features, num_heads, norm_eps=norm_eps, **dd)
        self.norm = nn.LayerNorm(in_features, eps=norm_eps, **dd)
        self.drop = nn.Dropout(drop_rate)
        self._set_classifier(in_features, num_classes, pool_type, **dd)

    def _set_classifier(self, in_features: int, num_classes: int, pool_type: str, device=None, dtype=None) -> None:
        if "cat" in pool_type:
            raise ValueError(f"pooling {pool_type!r} makes no class token: use avg, max, avgmax or none")
        self.num_features = in_features
        self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
        dd = {"device": device, "dtype": dtype}
        self.fc = nn.Linear(in_features, num_classes, **dd) if num_classes else nn.Identity()
        has_aux = self.with_aux and num_classes and pool_type
        self.aux = TokenClassifier(in_features, num_classes, **dd) if has_aux else None

    def reset(
        self,
        num_classes: int,
        pool_type: str | None = None,
        reset_other: bool = False,
        in_features: int | None = None,
        device=None,
        dtype=None,
    ) -> None:
        """Replace the classifiers, see `BaseModel.reset_classifier`; the others are class attention and norm.

        Raises:
            ValueError: `in_features` changes while the others stay.
        """
        dd = get_device_dtype(self, device=device, dtype=dtype)
        if reset_other:
            self.block, self.norm, self.with_aux = None, nn.Identity(), False
        if in_features not in (None, self.num_features) and self.block is not None:
            raise ValueError("the head's input width is fixed by its class attention: reset it with reset_other=True")
        in_features = self.num_features if in_features is None else in_features
        self._set_classifier(
            in_features, num_classes, self.global_pool.pool_type if pool_type is None else pool_type, **dd
        )
        self.train(self.training)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if self.global_pool.is_identity():
            x = self.drop(self.norm(x.permute(0, 2, 3, 1)))
            return (x if pre_logits else self.fc(x)).permute(0, 3, 1, 2)
        token, tokens = self.global_pool(x), x.flatten(2).transpose(1, 2)
        if self.block is not None:
            token = self.block(token[:, None], tokens)[:, 0]
        token = self.drop(self.norm(token))
        if pre_logits:
            return token
        logits = self.fc(token)
        if self.aux is None:
            return logits
        aux_logits = self.aux(self.norm(tokens))
        return (logits, aux_logits) if self.training else logits + 0.5 * aux_logits
