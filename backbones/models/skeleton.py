"""The skeleton every model shares: stem, stages, final norm, head, and the whole timm model contract around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import get_device_dtype
from timm.models import checkpoint
from torch import nn

from backbones._compat import MATCH_PREV_GROUP, feature_take_indices


class Stage(nn.Module):
    """`downsample` (or nothing), then `blocks`; maps `(B, C_in, H, W)` to `(B, C, H', W')`.

    `norm` (or nothing) is applied by the model: to what goes on to the next stage, to the head and to dense predictors,
    but not to intermediate maps.

    A state may go from stage to stage beside the map: a stage with `gives_state` returns `(map, state)`, and one with
    `takes_state` is called with `(map, state)`, the state being the last one given.
    """

    takes_state = gives_state = False

    def __init__(
        self, blocks: Sequence[nn.Module], downsample: nn.Module | None = None, norm: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample if downsample is not None else nn.Identity()
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm if norm is not None else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run_blocks(self.downsample(x))

    def run_blocks(self, x: torch.Tensor, *shared: torch.Tensor) -> torch.Tensor:
        """The blocks in a row, each called with its input and what they all share."""
        if not (shared or self.grad_checkpointing):
            return self.blocks(x)
        for block in self.blocks:
            x = checkpoint(block, x, *shared) if self.grad_checkpointing else block(x, *shared)
        return x


class BaseModel(nn.Module):
    """What all models share: initialisation, the classifier, and what else of timm's contract knows no stages.

    A subclass registers its modules in the order of computation, sets `feature_info`, and calls `_set_head` last.

    The constructors of all families also take these, by default for a classifier of ImageNet-1K:

    - `global_pool`: Pooling before the classifier (the head), "" for none.
    - `drop_rate`: Dropout before the classifier.
    - `drop_path_rate`: Stochastic depth of the last block; rises linearly from 0.
    - `device`, `dtype`: Of the parameters, as in `torch.nn`.

    Attributes:
        normal_layers: Layers whose weights start from a truncated normal distribution, standard deviation 0.02.
        trunk_norms: Indices of the outputs whose norm in the authors' dense models also feeds the next stage.
    """

    feature_info: list[dict[str, Any]]
    normal_layers: tuple[type[nn.Module], ...] = (nn.Linear,)
    trunk_norms: Sequence[int] = ()

    def _set_head(self, head: nn.Module, num_classes: int, in_chans: int) -> None:
        """Register the head, describe the model, and initialise all of it."""
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.feature_info[-1]["num_chs"]
        self.head = head
        self.head_hidden_size = head.num_features
        self.init_weights(needs_reset=False)

    # ------------------------------------------------------------------------------------------------ initialisation

    def init_weights(self, needs_reset: bool = True) -> None:
        """Initialise all parameters as the paper does.

        A module with the attribute `resets_children` starts its submodules in a way of its own, in `reset_parameters`.

        Args:
            needs_reset: First call `reset_parameters` of every submodule (needed after `to_empty`).
        """
        for name, module in self.named_modules():
            if module is self or any(p.is_meta for p in module.parameters(recurse=False)):
                continue
            if needs_reset and hasattr(module, "reset_parameters"):
                module.reset_parameters()
            self._init_weights(module, name)
        for module in self.modules():
            if getattr(module, "resets_children", False):
                module.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all parameters, for example after construction on the meta device and `to_empty`."""
        self.init_weights(needs_reset=True)

    def init_non_persistent_buffers(self) -> None:
        """Nothing to do: index tables and masks are cached functions of sizes, never buffers."""

    def _init_weights(self, module: nn.Module, name: str) -> None:
        """Initialise the parameters that `module` itself holds; by default, `normal_layers`."""
        if isinstance(module, self.normal_layers):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    # ------------------------------------------------------------------------------------------------- timm contract

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that the authors do not decay on ImageNet, beyond biases and vectors.

        They are what modules say by a `no_weight_decay` of their own.
        """
        return {
            f"{name}.{parameter}"
            for name, module in self.named_modules()
            if module is not self and hasattr(module, "no_weight_decay")
            for parameter in module.no_weight_decay()
        }

    @property
    def default_indices(self) -> list[int]:
        """Features that are returned where none are named."""
        return list(range(len(self.feature_info)))

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None, reset_other: bool = False) -> None:
        """Replace the classifier.

        Args:
            num_classes: New number of classes; 0 removes the classifier.
            global_pool: New pooling, "" for none; unchanged if None.
            reset_other: Also remove the head's other layers (norm, hidden layer).
        """
        self.num_classes = num_classes
        self.head.reset(
            num_classes, global_pool, reset_other=reset_other, in_features=self.num_features, **get_device_dtype(self)
        )
        self.head_hidden_size = self.head.num_features

    # ------------------------------------------------------------------------------------------------------- forward

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Unpooled features to logits, or to the vector before the classifier where `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


class HierarchicalModel(BaseModel):
    """A backbone of stages, and everything that timm and dense predictors ask of one.

    A family builds its parts and hands them over; it overrides `_init_weights` where its paper initialises differently.

    Args:
        stem: `(B, in_chans, H, W)` to the first stage's input.
        stages: See `Stage`; a module of several of them needs its attributes `norm`, `takes_state` and `gives_state`.
        dims: Channels of each stage's output.
        reductions: Stride of each stage's output with respect to the image.
        norm: Final norm, applied to the last map before pooling; None where the head or every stage normalises.
        head: A timm classifier head (`ClassifierHead`, `NormMlpClassifierHead`) or one with their interface.
        num_classes: Classes of the head, 0 for none.
        in_chans: Image channels.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        dims: Sequence[int],
        head: nn.Module,
        norm: nn.Module | None = None,
        reductions: Sequence[int] = (4, 8, 16, 32),
        num_classes: int = 1000,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.feature_info = [
            {"num_chs": dim, "reduction": reduction, "module": f"stages.{i}"}
            for i, (dim, reduction) in enumerate(zip(dims, reductions))
        ]
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.norm = norm if norm is not None else nn.Identity()
        self._set_head(head, num_classes, in_chans)

    # ------------------------------------------------------------------------------------------------- timm contract

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict:
        """Parameter groups for layer decay: stem, one group a block (a stage where `coarse`), head."""
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.downsample", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^stages\.(\d+)\.norm\.", MATCH_PREV_GROUP),
                (r"^norm\.", MATCH_PREV_GROUP),
            ],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block's activations in the backward pass instead of keeping them."""
        for module in self.stages.modules():
            if isinstance(module, Stage):
                module.grad_checkpointing = enable

    # ------------------------------------------------------------------------------------------------------- forward

    def forward_stages(self, x: torch.Tensor, count: int | None = None, normed: bool = False) -> list[torch.Tensor]:
        """Outputs of the first `count` stages (all if None), each `(B, C_i, H / r_i, W / r_i)`.

        They are raw, or through `Stage.norm` where `normed`.
        """
        return self._run(x, count, [lambda m: m] * len(self.stages) if normed else None)[0]

    def forward_dense(self, x: torch.Tensor, norms: Sequence[nn.Module]) -> list[torch.Tensor]:
        """Outputs of the first `len(norms)` stages, each through the norm of its stage and its own output norm."""
        return self._run(x, len(norms), norms)[0]

    def _run(
        self,
        x: torch.Tensor,
        count: int | None = None,
        norms: Sequence[Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> tuple[list[torch.Tensor], Any]:
        """Outputs of the first `count` stages, raw or as in `forward_dense` where there are `norms`; and the state."""
        outputs, state = [], None
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        for i, stage in enumerate(self.stages[:count]):
            if i and norms is None:
                x = self.stages[i - 1].norm(x)
            x = stage(x, state) if stage.takes_state else stage(x)
            if stage.gives_state:
                x, state = x
            if norms is None:
                outputs.append(x)
                continue
            x = stage.norm(x)
            outputs.append(norms[i](x))
            if i in self.trunk_norms:
                x = outputs[i]
        return outputs, state

    def _norm_last(self, x: torch.Tensor, state: Any = None) -> torch.Tensor:
        """The last stage's output, or the last state where that is what the model classifies, as the head takes it."""
        return self.norm(self.stages[-1].norm(x))

    def _final_map(self, final: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What `_norm_last` made of the last stage's output `x`, as a map."""
        return final

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, in_chans, H, W)` image batch to the last map, normed, unpooled."""
        outputs, state = self._run(x)
        return self._norm_last(outputs[-1], state)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Stage outputs, in timm's interface.

        Args:
            x: `(B, in_chans, H, W)`.
            indices: Stages to return: the last n if an int, all if None.
            norm: Pass the last stage's output through the final norm.
            stop_early: Run no stage after the last one asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: Return the list alone.

        Returns:
            The list of maps, or `(final features, list)`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f'output_fmt must be "NCHW" or "NHWC", not {output_fmt!r}')
        take, last = feature_take_indices(len(self.stages), indices)
        outputs, state = self._run(x, last + 1 if stop_early or intermediates_only else None)
        final = outputs[-1]
        if len(outputs) == len(self.stages):
            final = self._norm_last(final, state)
            if norm:
                outputs[-1] = self._final_map(final, outputs[-1])
        maps = [outputs[i] for i in take]
        if output_fmt == "NHWC":
            maps = [m.permute(0, 2, 3, 1) for m in maps]
        return maps if intermediates_only else (final, maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last one in `indices`, and optionally norm and head; returns the indices."""
        take, last = feature_take_indices(len(self.stages), indices)
        shortened = last < len(self.stages) - 1
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if prune_norm:
            self.stages[last].norm = nn.Identity()
        if shortened:
            self._truncate(last + 1)
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "", reset_other=True)
        return take

    def _truncate(self, count: int) -> None:
        """Keep the first `count` stages."""
        self.stages = self.stages[:count]
