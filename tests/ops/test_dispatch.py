"""How an operator chooses among its backends, and what it says about it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backbones.ops._dispatch import Backend, Operator, explain, use_backend
from backbones.ops.neighborhood import neighborhood_attention


class Fast(Backend):
    name, package = "fast", "fast-kernels"

    def __init__(self, installed: bool = True) -> None:
        self.installed = installed

    def is_installed(self) -> bool:
        return self.installed

    def unsupported_reasons(self, inputs: tuple[Tensor]) -> list[str]:
        return [f"takes vectors, not {inputs[0].ndim} dimensions"] if inputs[0].ndim > 1 else []

    def unsuitable_reasons(self, inputs: tuple[Tensor]) -> list[str]:
        return ["is for long vectors"] if len(inputs[0]) < 4 else []

    def run(self, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0] + 1


class Slow(Backend):
    name = "slow"

    def run(self, inputs: tuple[Tensor]) -> Tensor:
        return inputs[0] + 2


def test_choice():
    operator = Operator("add", [Fast(), Slow()])
    assert operator((torch.zeros(5),))[0] == 1
    assert operator((torch.zeros(5),), "slow")[0] == 2
    assert operator((torch.zeros(2),))[0] == 2
    assert operator((torch.zeros(2),), "fast")[0] == 1, "what does not suit can be asked for"
    with use_backend("slow"):
        assert operator((torch.zeros(5),))[0] == 2
        assert operator((torch.zeros(5),), "fast")[0] == 1
    with use_backend("reference"):
        assert operator((torch.zeros(5),))[0] == 1, "operators without the backend choose for themselves"
    assert Operator("add", [Fast(installed=False), Slow()])((torch.zeros(5),))[0] == 2


def test_refusals():
    operator = Operator("add", [Fast(), Slow()])
    with pytest.raises(ValueError, match='backend="fast" takes vectors, not 2 dimensions: use backend="auto"'):
        operator((torch.zeros(5, 5),), "fast")
    with pytest.raises(ValueError, match="backend must be one of auto, fast, slow, got 'quick'"):
        operator((torch.zeros(5),), "quick")
    with pytest.raises(ImportError, match='backend="fast" needs the fast package: pip install fast-kernels'):
        Operator("add", [Fast(installed=False), Slow()])((torch.zeros(5),), "fast")
    with pytest.raises(ValueError, match="got 'quick'"), use_backend("quick"):
        pass


def test_explanation():
    operator = Operator("add", [Fast(), Slow()])
    with explain() as decisions:
        operator((torch.zeros(2),))
        operator((torch.zeros(5),))
    operator((torch.zeros(5),))
    assert [str(d) for d in decisions] == ["add (2,): slow\n  not fast: is for long vectors", "add (5,): fast"]


def test_explanation_of_attention():
    q = torch.randn(1, 9, 9, 1, 8)
    with explain() as decisions:
        neighborhood_attention(q, q, q, 3)
        torch.jit.trace(lambda q: neighborhood_attention(q, q, q, 3), (q,), check_trace=False)
    eager, traced, inner = decisions
    assert eager.backend == "cpu" and set(eager.reasons) == {"natten", "triton"}
    assert traced.backend == "tiled" and traced.reasons["cpu"] == ["does not go into the captured graph"]
    assert (inner.operator, inner.backend) == ("biased_attention", "sdpa"), "tiles are dense attention"
