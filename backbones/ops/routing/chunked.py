"""Routed attention in chunks: no more than a bounded part of the k copies of keys and values exists at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backbones.ops._dispatch import Backend, no_capture_reasons
from backbones.ops.autocast import backward_without_autocast, no_autocast
from backbones.ops.routing.products import attend, flat_rows, gather
from backbones.ops.routing.reference import RoutedInputs

# Elements of keys and values gathered at a time. On CPU a chunk that stays in cache is far faster than the whole.
CHUNK_CPU, CHUNK_GPU = 2**20, 2**26


class _Attention(torch.autograd.Function):
    """Gather and attend, `chunk` query regions at a time; the backward pass repeats both instead of keeping them."""

    @staticmethod
    def forward(q, kv, rows, num_heads, scale, chunk):
        out = q.new_empty(*q.shape[:2], kv.shape[-1] - q.shape[-1])
        with no_autocast(q.device):
            for at in range(0, len(rows), chunk):
                part = slice(at, at + chunk)
                out[part] = attend(q[part], gather(kv, rows[part]), num_heads, scale)
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, kv, rows, ctx.num_heads, ctx.scale, ctx.chunk = inputs
        ctx.save_for_backward(q, kv, rows)

    @staticmethod
    @once_differentiable
    @backward_without_autocast
    def backward(ctx, grad):
        q, kv, rows = ctx.saved_tensors
        grad_q = torch.empty_like(q)
        # A region's gradient is the sum over all that picked it: too many terms for half precision.
        grad_kv = torch.zeros_like(kv, dtype=torch.promote_types(kv.dtype, torch.float32))
        for at in range(0, len(rows), ctx.chunk):
            part = slice(at, at + ctx.chunk)
            with torch.enable_grad():
                q_part = q[part].detach().requires_grad_()
                kv_part = gather(kv.detach(), rows[part]).requires_grad_()
                out = attend(q_part, kv_part, ctx.num_heads, ctx.scale)
            grad_q[part], grad_part = torch.autograd.grad(out, (q_part, kv_part), grad[part])
            grad_kv.index_add_(0, rows[part].flatten(), grad_part.reshape(-1, *kv.shape[1:]).to(grad_kv.dtype))
        return grad_q, grad_kv.to(kv.dtype), None, None, None, None


class ChunkedRouting(Backend):
    name = "chunked"

    def unsupported_reasons(self, inputs: RoutedInputs) -> list[str]:
        return [] if inputs.weight is None else ["does not weigh regions"]

    def unsuitable_reasons(self, inputs: RoutedInputs) -> list[str]:
        return no_capture_reasons() or (["gains nothing with one routed region"] if inputs.index.shape[-1] == 1 else [])

    def run(self, inputs: RoutedInputs) -> Tensor:
        q, kv, index, _, heads, scale = inputs
        limit = CHUNK_CPU if q.device.type == "cpu" else CHUNK_GPU
        chunk = max(1, limit // (index.shape[-1] * kv.shape[2] * kv.shape[3]))
        out = _Attention.apply(q.flatten(0, 1), kv.flatten(0, 1), flat_rows(index), heads, scale, chunk)
        return out.unflatten(0, q.shape[:2])
