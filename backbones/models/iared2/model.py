"""IA-RED2: interpretability-aware redundancy reduction (Pan et al., NeurIPS 2021, arXiv 2106.12620), of DeiT.

- Before each group of blocks, an interpreter scores every patch by the class token's view of it.
- Patches that score 0.5 or less are dropped for good. In inference the others are computed alone.
- Interpreters learn by REINFORCE: a reward for correct predictions from few patches.

Differences from the paper: its training code is not published, so the reward is as the paper describes it, the
curriculum's switch is the argument `cl_step`, and how interpreters start is chosen here. Without that reward, they
learn from the loss of the labels by gradients that go straight through the threshold. Images may have any size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import calculate_drop_path_rates, register_notrace_module
from torch import nn

from backbones.layers.attention.global_attention import KeptTokenAttention
from backbones.layers.block import TokenBlock
from backbones.layers.head import TokenHead
from backbones.layers.patch import PatchEmbed
from backbones.layers.pointwise import Linear
from backbones.layers.selection import Kept, Selection, regather
from backbones.layers.tokens import ClassToken, PositionEmbedding
from backbones.models.isotropic import IsotropicModel, grid_size
from backbones.ops.plain import is_plain


@register_notrace_module
class Interpreter(nn.Module):
    """Multi-head interpreter (section 3.2): which patches are worth computing.

    A patch's score is the mean over heads of `sigmoid(q . k / sqrt(c))`, q of the class token, k of the patch, both
    made of normalised tokens. It is kept if that is above 0.5, and if no interpreter before has dropped it.

    Args:
        dim: Channels C.
        num_heads: Heads; must divide C.
        decides: Whether patches are dropped by the scores; otherwise what was kept before stays.

    Maps tokens and what is `Kept` of them to the same, the class token first; dropped tokens are zero.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    def __init__(self, dim: int, num_heads: int = 6, decides: bool = True, device=None, dtype=None) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} must be a multiple of the interpreter's heads, {num_heads}")
        self.num_heads = num_heads
        self.decides = decides
        self.qk = Linear(dim, 3 * dim, device=device, dtype=dtype)  # the last third is not used

    def scores(self, x: torch.Tensor, kept: Kept) -> torch.Tensor:
        """`(B, N)` in [0, 1], that of the class token included; 0 for dropped tokens."""
        x = kept.rows(x)
        dim = x.shape[-1]
        z = F.layer_norm(x, (dim,))
        if isinstance(self.qk, Linear) and is_plain(self.qk) and not torch.is_grad_enabled():
            weight, bias = self.qk.weight, self.qk.bias
            q = F.linear(z[:, :1], weight[:dim], bias[:dim])
            k = self.qk.forward_with(z, weight[dim : 2 * dim], bias[dim : 2 * dim])
        else:
            q, k, _ = self.qk(z).chunk(3, dim=-1)
            q = q[:, :1]
        q, k = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (q, k))
        scores = (q @ k.transpose(-2, -1) * (dim // self.num_heads) ** -0.5).sigmoid().mean(1)[:, 0]
        return kept.in_place(scores)

    def decide(self, chosen: torch.Tensor, kept: Kept) -> torch.Tensor:
        """`(B, N)` bool, what is kept where `chosen` patches are: of those that are there, and the class token."""
        if not self.decides:
            return torch.ones_like(chosen) if kept.mask is None else kept.mask
        chosen = torch.cat([torch.ones_like(chosen[:, :1]), chosen[:, 1:]], dim=1)
        return chosen if kept.mask is None else chosen & kept.mask

    def forward(self, x: torch.Tensor, kept: Kept, sample: bool = False) -> tuple[torch.Tensor, Kept]:
        scores = self.scores(x, kept)
        mask = self.decide((torch.rand_like(scores) < scores) if sample else (scores > 0.5), kept)
        if kept.may_gather(x, self.training):
            after = kept.fewer(mask, scores, gather=True, rest=True)
            return regather(x, kept, after), after
        gate = mask.to(scores.dtype)
        if self.decides and not sample:
            gate = gate + (scores - scores.detach())
        return x * gate.unsqueeze(-1).to(x.dtype), kept.fewer(mask, scores, gather=False)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, decides={self.decides}"


class ReducedBlock(TokenBlock):
    """`TokenBlock` on the tokens that are kept, and before it, in the first block of a group, an interpreter.

    Maps tokens, grid and what is `Kept` to tokens and what is kept.
    """

    selects = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        interpreter: Interpreter | None = None,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        super().__init__(
            dim, KeptTokenAttention(dim, num_heads, **dd), mlp_ratio, norm_eps=1e-6, drop_path=drop_path, **dd
        )
        self.interpreter = interpreter
        self.sample = False

    def forward(self, x: torch.Tensor, grid: tuple[int, int], kept: Kept) -> tuple[torch.Tensor, Kept]:
        if self.interpreter is not None:
            x, kept = self.interpreter(x, kept, self.sample)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), grid, kept)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x)))), kept

    def selection(self, x: torch.Tensor, grid: tuple[int, int], kept: Kept) -> Selection:
        """What the block computes of the tokens `x`."""
        if self.interpreter is not None:
            _, kept = self.interpreter(x, kept)
        return Selection(kept.mask, scores=kept.scores)


class PolicyLoss(NamedTuple):
    """REINFORCE with a self-critical baseline (section 3.3): what a forward pass in training adds to the loss.

    The reward of an image is `1 - share ** 2` where the prediction is right, share being that of the patches that are
    kept, and `-penalty` where it is wrong. The baseline is the reward of the most probable decisions.

    Attributes:
        log_prob: `(B,)`, of the decisions that were drawn; the gradient goes through it.
        share: `(B,)`, of patches that these keep.
        baseline_logits: `(B, classes)` by the most probable decisions.
        baseline_share: `(B,)`, of patches that those keep.
        penalty: Of a wrong prediction.
    """

    log_prob: torch.Tensor
    share: torch.Tensor
    baseline_logits: torch.Tensor
    baseline_share: torch.Tensor
    penalty: float

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            logits: `(B, classes)` by the decisions that were drawn.
            target: Labels `(B,)`, or soft ones `(B, classes)`, of which the largest counts.
        """
        labels = target if target.ndim == 1 else target.argmax(1)

        def reward(logits: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
            return torch.where(logits.argmax(1) == labels, 1 - share.square(), -self.penalty)

        advantage = reward(logits, self.share) - reward(self.baseline_logits, self.baseline_share)
        return -(advantage.detach() * self.log_prob).mean()


class IARED2(IsotropicModel):
    """DeiT with interpreters that drop patches.

    Takes images of any size: incomplete patches are zero-padded, and the position embedding is resized.

    In training with a `policy`, one interpreter draws what it keeps, and the model returns `(logits, PolicyLoss)`. The
    curriculum trains one after the other: `--model-kwargs policy=0 cl_step=0` on the command line, then 1, then 2.

    Args:
        img_size: Side of the images, or `(height, width)`, that the position embedding is stored for.
        patch_size: Side of a patch, in pixels.
        dim: Channels.
        depth: Blocks.
        num_heads: Heads of attention.
        groups: Groups of blocks; must divide the depth.
        interpreter_heads: Heads of the interpreters.
        cl_step: Curriculum: interpreters after number `cl_step` drop nothing; -1 for none such.
        policy: The interpreter, from 0, that learns by its reward in training; None for none.
        penalty: Of a wrong prediction, in that reward.
        mlp_ratio: Hidden width of the MLPs over the channels.
        in_chans, num_classes, global_pool, drop_rate, drop_path_rate, device, dtype: See `IsotropicModel`.

    Raises:
        ValueError: Groups that do not divide the depth, or an interpreter that there is not.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        groups: int = 3,
        interpreter_heads: int = 6,
        cl_step: int = -1,
        policy: int | None = None,
        penalty: float = 1.0,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        dd = {"device": device, "dtype": dtype}
        if depth % groups:
            raise ValueError(f"depth {depth} must be a multiple of groups {groups}")
        for name, number, least in (("cl_step", cl_step, -1), ("policy", 0 if policy is None else policy, 0)):
            if not least <= number < groups:
                raise ValueError(f"{name} must be an interpreter from {least} to {groups - 1}, not {number}")
        length = depth // groups
        blocks = []
        for i, rate in enumerate(calculate_drop_path_rates(drop_path_rate, depth)):
            group, first = divmod(i, length)
            decides = cl_step < 0 or group <= cl_step
            interpreter = None if first else Interpreter(dim, interpreter_heads, decides, **dd)
            blocks.append(ReducedBlock(dim, num_heads, mlp_ratio, rate, interpreter, **dd))
        super().__init__(
            stem=PatchEmbed(in_chans, dim, patch_size, **dd),
            class_token=ClassToken(dim, **dd),
            pos_embed=PositionEmbedding(dim, grid_size(img_size, patch_size), num_prefix_tokens=1, **dd),
            blocks=blocks,
            dim=dim,
            reduction=patch_size,
            norm=nn.LayerNorm(dim, eps=1e-6, **dd),
            head=TokenHead(dim, num_classes, global_pool, drop_rate=drop_rate, **dd),
            num_classes=num_classes,
            in_chans=in_chans,
        )
        self.policy = None if policy is None else policy * length  # number of its block
        self.penalty = penalty

    def _init_weights(self, module: nn.Module, name: str) -> None:
        """Interpreters start by keeping all patches, with scores near 0.73: the biases of q and k are alike."""
        super()._init_weights(module, name)
        if name.endswith(".interpreter.qk"):
            interpreter = self.get_submodule(name.removesuffix(".qk"))
            width = module.in_features // interpreter.num_heads
            nn.init.constant_(module.bias, width**-0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, PolicyLoss]:
        if self.policy is None or not self.training:
            return super().forward(x)
        return self._forward_policy(x)

    def _forward_policy(self, x: torch.Tensor) -> tuple[torch.Tensor, PolicyLoss]:
        """The logits by drawn decisions, and the loss of their policy."""
        x, grid = self.embed(x)
        kept = self.begin()
        for i in range(self.policy):
            x, kept = self.forward_block(i, x, grid, kept)
        block, before = self.blocks[self.policy], kept.mask
        with torch.no_grad():
            logits, mask, _ = self._rest(x, grid, kept)
            baseline = logits, _patch_share(mask)
        block.sample = True
        try:
            logits, mask, scores = self._rest(x, grid, kept)
        finally:
            block.sample = False
        drawn = mask[:, 1:]
        probability = torch.where(drawn, scores[:, 1:], 1 - scores[:, 1:]).float()
        log_prob = probability.clamp_min(torch.finfo(torch.float32).tiny).log()
        if before is not None:  # what is gone was not to be decided
            log_prob = log_prob * before[:, 1:]
        return logits, PolicyLoss(log_prob.sum(1), _patch_share(mask), *baseline, self.penalty)

    def _rest(
        self, x: torch.Tensor, grid: tuple[int, int], kept: Kept
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits from the blocks from the policy's on, and the policy's mask and scores."""
        x, kept = self.forward_block(self.policy, x, grid, kept)
        mask, scores = kept.mask, kept.scores
        for i in range(self.policy + 1, len(self.blocks)):
            x, kept = self.forward_block(i, x, grid, kept)
        return self.forward_head(self.norm(self._whole(x, kept))), mask, scores


def _patch_share(mask: torch.Tensor) -> torch.Tensor:
    """`(B,)`, the share of patches in a mask of all tokens."""
    return mask[:, 1:].float().mean(1)
