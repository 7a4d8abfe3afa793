"""What is special about L2ViT: two kinds of blocks, and windows of another size with the same weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backbones.models import list_models
from backbones.models.l2vit import LinearBlock, WindowBlock
from backbones.models.l2vit.model import Stem
from tests.models.zoo import full_size, image, on_meta, stir


@pytest.mark.parametrize("name", list_models("l2vit_*"))
def test_windows_and_linear_attention_take_turns(name):
    for info, stage in zip(full_size(name).feature_info, full_size(name).stages, strict=True):
        assert all(isinstance(block, (WindowBlock, LinearBlock)[j % 2]) for j, block in enumerate(stage.blocks))
        for window, linear in zip(stage.blocks[::2], stage.blocks[1::2], strict=True):
            assert window.attn.window_size == (7, 7) and window.attn.rel_pos is None and not window.attn.mask_padding
            assert window.attn.num_heads == linear.attn.num_heads == info["num_chs"] // 32


def test_windows_of_384():
    model = on_meta("l2vit_b.in22k_ft_in1k_384")
    windows = {m.attn.window_size for m in model.modules() if isinstance(m, WindowBlock)}
    assert windows == {(12, 12)}
    assert model.state_dict().keys() == full_size("l2vit_b").state_dict().keys()


def _plain(block: WindowBlock | LinearBlock, x: torch.Tensor) -> torch.Tensor:
    def conv(x: torch.Tensor, layer: torch.nn.Conv2d) -> torch.Tensor:
        image = x.permute(0, 3, 1, 2)
        out = F.conv2d(image, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2, groups=image.shape[1])
        return out.permute(0, 2, 3, 1)

    x = x + conv(x, block.pos_embed1)
    x = x + block.attn(block.norm1(x))
    if isinstance(block, WindowBlock):
        x = x + conv(x, block.pos_embed2)
    else:
        hidden = F.gelu(conv(block.norm3(x), block.local.conv1)).permute(0, 3, 1, 2)
        x = x + conv(block.local.norm(hidden).permute(0, 2, 3, 1), block.local.conv2)
    return x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))


@pytest.mark.parametrize("block", [WindowBlock(8, 2, 3), LinearBlock(8, 2)])
def test_blocks(block):
    stir(block).eval()
    x = torch.randn(2, 5, 7, 8)
    with torch.no_grad():
        found = block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        torch.testing.assert_close(found, _plain(block, x), rtol=1e-4, atol=1e-4)


def test_images_are_padded_before_the_stem():
    """Zeros of the image, not of the first convolution's map, at its right and bottom."""
    stem = stir(Stem(3, 16)).eval()
    with torch.no_grad():
        found, padded = stem(image(33, 46)), stem(F.pad(image(33, 46), (0, 2, 0, 3)))
    assert found.shape == (2, 16, 9, 12) and torch.equal(found, padded)
