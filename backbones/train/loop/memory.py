"""The largest batch that fits into memory, found by halving."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from torch import nn

from backbones.train.loop.losses import TrainingLoss
from backbones.train.options import TrainOptions
from backbones.utils.failures import is_out_of_memory
from backbones.utils.processes import return_freed_memory


def largest_batch(
    model: nn.Module, loss: TrainingLoss, input_size: Sequence[int], batch: int, options: TrainOptions
) -> int:
    """The largest of batch, batch/2, … with which a forward and backward pass fits; 0 when none does.

    Room for the optimiser's two moments is set aside. Weights, gradients, buffers and the mode are as before.

    Args:
        model: Bare model on its device.
        loss: Training loss.
        input_size: (C, H, W).
        batch: Where to start.
        options: For the precision and memory format.
    """
    parameter, trainable = next(model.parameters()), loss.trainable(model)
    device, training = parameter.device, model.training
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    dtype = getattr(torch, options.amp_dtype)
    model.train()
    try:
        while batch >= 1:
            try:
                _reserve = [torch.empty_like(p) for p in model.parameters() for _ in range(2)]
                count = batch * max(options.aug_splits, 1)
                images = torch.randn(count, *input_size, device=device).contiguous(memory_format=layout)
                target = torch.zeros(count, dtype=torch.long, device=device)
                with torch.autocast(device.type, dtype=dtype, enabled=options.amp):
                    output = trainable(images.to(parameter.dtype))
                    logits = output[0] if isinstance(output, (tuple, list)) else output
                    if options.mixes:
                        target = nn.functional.one_hot(target, logits.shape[1]).float()
                    value, _ = loss(output, target, images)
                value.backward()
                return batch
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                batch //= 2
                return_freed_memory()
            finally:
                _reserve = images = target = output = logits = value = None
                model.zero_grad(set_to_none=True)
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
        return 0
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
        model.train(training)


def explain(
    model: nn.Module,
    loss: TrainingLoss,
    input_size: Sequence[int],
    batch: int,
    options: TrainOptions,
    probe: bool = True,
) -> str:
    """A sentence for someone whose batch did not fit: with ``probe``, the batch that does.

    Args:
        batch: Images of a forward pass that ran out of memory.
        probe: Look for the batch that fits; not while other processes wait.
    """
    head = f"Out of memory with a batch of {batch} images a process."
    if not probe:
        return f"{head} Halve --batch-size and double --grad-accum-steps, or pass --auto-batch-halving."
    fits = largest_batch(model, loss, input_size, batch // 2, options)
    if not fits:
        return f"{head} Not even one image fits: try --grad-checkpointing, --amp, or a smaller --img-size."
    accum = options.grad_accum_steps * -(-batch // fits)
    return (
        f"{head} A batch of {fits} fits: --batch-size {fits} --grad-accum-steps {accum} keeps the global batch; "
        "--auto-batch-halving does this by itself."
    )
