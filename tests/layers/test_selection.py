"""Kept tokens: gathering, rows for attention, and putting them back."""

from __future__ import annotations

import pytest
import torch

from backbones.layers.selection import Kept, Selection, best, ceil_share, regather, whole_tokens, without_dropped
from backbones.ops.plain import is_watched

MASKS = {
    "ragged": torch.tensor([[1, 0, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool(),
    "even": torch.tensor([[1, 0, 1, 1, 0], [1, 1, 0, 0, 1], [1, 1, 1, 0, 0]]).bool(),
}


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_gathering_and_back(name, rest):
    mask, x = MASKS[name], torch.randn(3, 5, 2)
    masked = x * mask[..., None]
    before = Kept(gathers=True)
    kept = before.fewer(mask, mask.float(), gather=True, rest=rest)
    gathered = regather(x, before, kept)
    assert gathered.shape == (1, int(mask.sum()) + rest, 2)
    assert torch.equal(whole_tokens(gathered, kept), masked)
    rows = kept.rows(gathered)
    most = int(mask.sum(1).max())
    assert rows.shape == (3, most, 2) and (kept.real is None) == (name == "even")
    for image in range(3):
        there = x[image, mask[image]]
        assert torch.equal(rows[image, : len(there)], there) and not rows[image, len(there) :].any()
    assert torch.equal(whole_tokens(kept.from_rows(rows), kept), masked)
    assert torch.equal(kept.in_place(rows[..., 0]), masked[..., 0])
    if rest:
        gathered[0, -1] = 7
        assert torch.equal(whole_tokens(gathered, kept), masked + 7 * ~mask[..., None])


def test_fewer_and_fewer_tokens():
    first, x = MASKS["ragged"], torch.randn(3, 5, 2)
    second = first & torch.tensor([1, 1, 1, 0, 1]).bool()
    start = Kept(gathers=True)
    kept = start.fewer(first, first.float(), gather=True, rest=True)
    fewer = kept.fewer(second, second.float(), gather=True, rest=True)
    gathered = regather(regather(x, start, kept), kept, fewer)
    assert torch.equal(whole_tokens(gathered, fewer), x * second[..., None])


def test_masked_tokens_stay_in_place():
    mask, x = MASKS["ragged"], torch.randn(3, 5, 2)
    kept = Kept().fewer(mask, mask.float(), gather=False)
    assert regather(x, Kept(), kept) is x is whole_tokens(x, kept)
    for zeroed in (kept.rows(x), kept.from_rows(x), without_dropped(x, kept)):
        assert torch.equal(zeroed, x * mask[..., None])
    assert kept.keys is mask and Kept().keys is None


def test_tokens_are_gathered_in_inference_only():
    x, layer = torch.randn(1, 2, 3), torch.nn.Sequential(torch.nn.Linear(3, 3))
    assert not Kept(gathers=True).may_gather(x, training=False), "gradients may be wanted"
    with torch.no_grad():
        assert Kept(gathers=True).may_gather(x, training=False)
        assert not Kept(gathers=True).may_gather(x, training=True)
        assert not Kept(gathers=True).may_gather(x.to("meta"), training=False)
        assert not Kept().may_gather(x, training=False)
    assert not is_watched(layer)
    handle = layer[0].register_forward_hook(lambda *_: None)
    assert is_watched(layer)
    handle.remove()
    assert not is_watched(layer)


def test_shares_and_maps():
    tokens = torch.tensor([[1, 1, 0, 1, 0, 0, 1]]).bool()
    pairs = torch.zeros(1, 2, 7, 7, dtype=torch.bool)
    pairs[0, :, 0] = True
    found = Selection(tokens, grid=(2, 3))
    torch.testing.assert_close(found.token_share, torch.tensor([4 / 7]))
    torch.testing.assert_close(found.pair_share, torch.tensor([16 / 49]))
    torch.testing.assert_close(found._replace(pairs=pairs).pair_share, torch.tensor([4 / 49]))
    assert found.map().tolist() == [[[True, False, True], [False, False, True]]]
    assert found.map(torch.arange(7.0)).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(("rate", "count", "expected"), [(0.25, 197, 50), (0.1, 197, 20), (0.7**2, 196, 97), (1, 9, 9)])
def test_shares_are_rounded_up(rate, count, expected):
    assert ceil_share(rate, count) == expected


def test_the_best():
    scores = torch.tensor([[0.1, 0.5, -1.0, 0.3]])
    assert best(scores, 2).tolist() == [[False, True, False, True]]
