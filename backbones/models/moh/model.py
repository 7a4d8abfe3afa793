"""MoH-ViT: TransNeXt with mixture-of-head attention (Jin et al., ICML 2025, arXiv 2410.11842).

- Every token weighs the output of each head of attention before the projection: a few shared heads always, and of the
  others the K that its router prefers; the rest count nothing.
- In training a loss keeps the use of the routed heads balanced: with `balance_loss`, the model returns it too.

All heads are computed, so routing saves no time. Any image size, as TransNeXt. Which heads are kept is discontinuous:
where two are nearly tied, rounding decides, and half precision or TF32 decides otherwise for many tokens.

Differences from the paper: gates have the mean 1, by factors of the number of shared heads, of K and of 2; those of the
kept heads are renormalised over the kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module
from timm.models import checkpoint
from torch import nn

from backbones.layers.block import MixerBlock
from backbones.models.moh.transnext import TransNeXt
from backbones.models.skeleton import Stage


@register_notrace_module
class HeadRouter(nn.Module):
    """Gates of the heads of attention, token by token (MoH, arXiv 2410.11842, section 3.2).

    The first `num_shared` heads share a softmax; of the others, the `num_routed` with the largest probabilities are
    kept. Another softmax weighs the two groups.

    Args:
        dim: Channels C.
        num_heads: Heads.
        num_shared: S, heads that every token uses.
        num_routed: K, how many of the others a token uses; 0 where all heads are shared.

    Maps `(B, H, W, C)` to gates `(B, H, W, num_heads)` and, in training with K > 0, the load-balance loss, a scalar
    that is K where all candidates are used alike; else None.

    Raises:
        ValueError: Numbers of heads that do not go together.
    """

    def __init__(self, dim: int, num_heads: int, num_shared: int, num_routed: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"bias": False, "device": device, "dtype": dtype}
        candidates = num_heads - num_shared
        if not 0 <= num_routed <= candidates or (num_routed == 0 and (candidates or num_shared < 2)):
            raise ValueError(
                f"of {num_heads} heads, {num_shared} shared and {num_routed} routed are not possible: without routed "
                "heads, all must be shared"
            )
        self.num_shared, self.num_routed = num_shared, num_routed
        self.routed = nn.Linear(dim, candidates, **dd) if num_routed else None
        self.balance = nn.Linear(dim, 2, **dd) if num_routed and num_shared else None
        self.shared = nn.Linear(dim, num_shared, **dd) if num_shared > 1 else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        def shares(layer: nn.Module) -> torch.Tensor:
            scores = layer(x)
            return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))

        groups, loss = [], None
        if self.shared is not None:
            groups.append(self.num_shared * shares(self.shared))
        elif self.num_shared:
            groups.append(torch.ones_like(x[..., :1]))
        if self.routed is not None:
            probabilities = shares(self.routed)
            kept, index = probabilities.topk(self.num_routed, -1)
            kept = self.num_routed * kept / kept.sum(-1, keepdim=True).clamp(min=torch.finfo(kept.dtype).eps)
            groups.append(torch.zeros_like(probabilities).scatter(-1, index, kept))
            if self.training:
                used = torch.zeros_like(probabilities).scatter(-1, index, 1.0)
                share, use = (t.flatten(0, -2).mean(0) for t in (probabilities, used))
                loss = share.numel() * (share * use).sum()
        if self.balance is not None:
            groups = [2 * weight * group for weight, group in zip(shares(self.balance).split(1, -1), groups)]
        return torch.cat(groups, -1), loss

    def extra_repr(self) -> str:
        return f"num_shared={self.num_shared}, num_routed={self.num_routed}"


class MoHBlock(MixerBlock):
    """A block of TransNeXt whose heads a router weighs.

    Args:
        router: Router of the heads.
        parts: As in `MixerBlock`; the mixer takes gates too.

    Maps `(B, C, H, W)` to the same shape; with a scalar beside it, to the map and the scalar plus the router's loss.
    """

    def __init__(self, router: HeadRouter, **parts) -> None:
        super().__init__(**parts)
        self.router = router

    def forward(
        self, x: torch.Tensor, balance: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        x = x.permute(0, 2, 3, 1)
        y = self.norm1(x)
        gates, loss = self.router(y)
        x = x + self.drop_path1(self.ls1(self.attn(y, gates)))
        x = (x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))).permute(0, 3, 1, 2)
        if balance is None:
            return x
        return x, balance if loss is None else balance + loss


class BalancedStage(Stage):
    """A stage that in training sums up the losses of its routers and those before; in evaluation the sum is None."""

    takes_state = gives_state = True

    def forward(self, x: torch.Tensor, balance: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not self.training:
            return super().forward(x), None
        x = self.downsample(x)
        balance = torch.zeros((), device=x.device) if balance is None else balance
        for block in self.blocks:
            x, balance = checkpoint(block, x, balance) if self.grad_checkpointing else block(x, balance)
        return x, balance


class MoHTransNeXt(TransNeXt):
    """TransNeXt with mixture-of-head attention.

    Args:
        shared_heads: Heads that every token uses, stage by stage.
        routed_heads: Of the other heads, how many a token uses; 0 where all are shared.
        balance_loss: Weight of the load-balance loss. Where it is not 0 the model returns `(logits, loss)` in training:
            the mean over the layers that route, times this weight, to be added to the loss of the labels. The authors
            take 0.01.
        arguments: As in `TransNeXt`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        shared_heads: Sequence[int] = (3, 6, 3, 4),
        routed_heads: Sequence[int] = (0, 0, 6, 12),
        balance_loss: float = 0.0,
        **arguments,
    ) -> None:
        # What the blocks and stages are made by, so before the constructor.
        self.shared_heads, self.routed_heads, self.balance_loss = shared_heads, routed_heads, balance_loss
        super().__init__(in_chans, num_classes, global_pool, **arguments)

    def make_block(self, stage: int, **parts) -> nn.Module:
        heads = parts["mixer"].num_heads
        dd = {key: parts[key] for key in ("device", "dtype")}
        router = HeadRouter(parts["dim"], heads, self.shared_heads[stage], self.routed_heads[stage], **dd)
        return MoHBlock(router, **parts)

    def make_stage(self, *parts) -> Stage:
        return BalancedStage(*parts) if self.balance_loss else Stage(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        if not (self.training and self.balance_loss):
            return super().forward(x)
        outputs, balance = self._run(x)
        layers = sum(isinstance(m, HeadRouter) and m.num_routed > 0 for m in self.modules())
        logits = self.forward_head(self._norm_last(outputs[-1]))
        return logits, self.balance_loss / max(layers, 1) * balance
