"""Files that no model can load, or that should do harm: each a name and the bytes of a file."""

from __future__ import annotations

import io
import json
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


class Zeros:
    """Pickles as a call that makes so many zeros, of a type that torch's safe unpickler allows."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __reduce__(self):
        return bytearray, (self.count,)


class Hung(torch.Tensor):
    """Pickles as a tensor with other attributes in the place of its methods."""

    def __reduce_ex__(self, _):
        attributes = {"isfinite": 1, "numel": 2, "double": 3, "clone": 4, "__tensor_flatten__": 5}
        rebuild, plain = torch._tensor._rebuild_from_type_v2, torch.zeros(3).__reduce_ex__(2)
        return rebuild, (plain[0], torch.Tensor, plain[1], attributes)


def torch_file(content: Any, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def repacked(data: bytes, change: Callable[[str, bytes], bytes] = lambda _, content: content, **kwargs) -> bytes:
    """A zip archive written anew, with other content or compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", **kwargs) as new:
        for member in old.infolist():
            new.writestr(member.filename, change(member.filename, old.read(member)))
    return out.getvalue()


def safetensors_file(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def bomb(megabytes: int = 400) -> bytes:
    """A torch file of some hundred kilobytes whose one tensor has so many megabytes of zeros."""
    small = torch_file({"a": torch.zeros(4)})
    count = megabytes * 1_000_000 // 4

    def grown(name: str, content: bytes) -> bytes:
        if name.endswith("data/0"):
            return bytes(4 * count)
        number = b"J" + count.to_bytes(4, "little")
        return content.replace(b"K\x04", number) if name.endswith("data.pkl") else content

    return repacked(small, grown, compression=zipfile.ZIP_DEFLATED, compresslevel=1)


def lying(state: dict[str, torch.Tensor]) -> bytes:
    """A torch file whose index states ten million numbers where it has four."""
    number = b"J" + (10_000_000).to_bytes(4, "little")
    return repacked(torch_file({"a": torch.zeros(4)}), lambda _, content: content.replace(b"K\x04", number))


def with_attributes(state: dict[str, Any], wrapper: str | None = None) -> bytes:
    """A torch file of a dict with attributes in the place of its methods."""
    found = OrderedDict(state)
    found.__dict__.update(itemZ=1, geT=2, keyZ=3)

    def renamed(_: str, content: bytes) -> bytes:
        return content.replace(b"itemZ", b"items").replace(b"geT", b"get").replace(b"keyZ", b"keys")

    return repacked(torch_file({wrapper: found} if wrapper else found), renamed)


def contents(state: dict[str, torch.Tensor], mark: Path) -> Iterator[tuple[str, Any]]:
    """What a torch file may hold instead of a state dict, or in the place of its weights."""
    name, one = next(iter(state.items()))
    circle: dict[str, Any] = {}
    circle["model"] = circle
    laughs: Any = one
    for _ in range(60):
        laughs = {"a": laughs, "b": laughs}
    deep: Any = {}
    for _ in range(300):
        deep = {"model": deep}
    yield from {
        "list": [one],
        "scalar": 3,
        "none": None,
        "text": "state_dict",
        "tensor": one,
        "empty": {},
        "empty-wrapper": {"model": {}},
        "wrapped-list": {"state_dict": [one, one]},
        "wrapped-scalar": {"model": 3},
        "wrapped-twice": {"model": {"model": state}},
        "circle": circle,
        "laughs": laughs,
        "deep": deep,
        "integer-keys": dict(enumerate(state.values())),
        "wrapped-integer-keys": {"model": {101: one}},
        "a-integer-key": {**state, 101: one},
        "tuple-keys": {("a", 1): one, None: one, 2.5: one, b"x": one},
        "odd-names": {"": one, "\x1b[31m\nTraceback": one, "a" * 5000: one, "." * 400: one, "\ud800": one},
        "huge-numbers": {f"stages.{10**30}.blocks.{'9' * 5000}.x": one, "stages.-1.blocks.": one, "stages..": one},
        "no-tensors": dict.fromkeys(state, 1.0),
        "lists": {key: [1.0] for key in state},
        "objects": {**state, "extra": Evil(mark)},
        "hung": {**state, name: Hung()},
        "zeros": {**state, "extra": Zeros(10**11)},
        "namespace": {**state, "extra": {"args": set(), "names": ["a"]}},
        "scalars": {key: torch.tensor(1.0) for key in state},
        "no-numbers": {key: torch.empty(0) for key in state},
        "other-shapes": {key: value.flatten() for key, value in state.items()},
        "transposed": {key: value.transpose(0, -1) if value.ndim > 1 else value for key, value in state.items()},
        "nan": {**state, name: one * float("nan")},
        "infinite": {key: value / 0 for key, value in state.items()},
        "views": {key: torch.zeros(1).expand(value.shape) for key, value in state.items()},
        "huge-view": {**state, name: torch.zeros(1).expand(200_000, 200_000)},
        "huge-shape": {**state, name: torch.zeros(1).expand(*one.shape[:-1], 10**9)},
        "meta": {key: value.to("meta") for key, value in state.items()},
        "a-meta": {**state, name: one.to("meta")},
        "quantised": {**state, name: torch.quantize_per_tensor(one, 0.1, 0, torch.qint8)},
        "sparse": {**state, name: one.to_sparse()},
        "huge-sparse": {
            **state,
            name: torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (10**9, 10**9)),
        },
        "complex": {**state, name: one.to(torch.complex64)},
        "bits": {**state, name: torch.zeros(one.shape, dtype=torch.uint8).view(torch.bits8)},
        **{str(d)[6:]: {key: value.to(d) for key, value in state.items()} for d in _TYPES},
    }.items()


_TYPES = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int8,
    torch.int64,
    torch.bool,
    torch.uint16,
)


def headers(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, bytes]]:
    """Safetensors files whose header is wrong."""
    good = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    wrong = {
        "offsets-beyond": {"data_offsets": [0, 10**12]},
        "offsets-reversed": {"data_offsets": [8, 0]},
        "negative": {"shape": [-2]},
        "overflow": {"shape": [2**32, 2**32, 2**32]},
        "other-shape": {"shape": [3]},
        "unknown-type": {"dtype": "F12"},
        "half-bytes": {"dtype": "F4"},
        "scale": {"dtype": "F8_E8M0", "shape": [8]},
        "no-type": {"dtype": None},
        "text": {"shape": "2"},
    }
    for name, change in wrong.items():
        yield f"header-{name}", safetensors_file({"a": {**good, **change}}, bytes(8))
    yield "header-length", safetensors_file({"a": good}, bytes(8), length=2**63)
    yield "header-beyond", safetensors_file({"a": good}, length=10**9)
    yield "header-spaces", safetensors_file(b"{" + b" " * 10**6 + b"}")
    yield "header-nested", safetensors_file(b'{"a":' * 5000 + b"1" + b"}" * 5000)
    yield "header-bytes", safetensors_file(b'{"\xff\xfe": 1}')
    text = json.dumps(good).encode()
    yield "header-twice", safetensors_file(b'{"a":' + text + b',"a":' + text + b"}", bytes(8))
    yield "header-same-bytes", safetensors_file({"a": good, "b": good}, bytes(8))
    yield (
        "many",
        safetensors_file({f"stages.{i}.x": {**good, "shape": [0], "data_offsets": [0, 0]} for i in range(30_000)}),
    )
    yield "f8", save({key: value.to(torch.float8_e4m3fn) for key, value in state.items()})


def hostile(state: dict[str, torch.Tensor], mark: Path) -> dict[str, bytes]:
    """Files that were made to be wrong; `mark` is a file that none of them may create."""
    good = torch_file(state)
    return {
        **{name: torch_file(content) for name, content in contents(state, mark)},
        **dict(headers(state)),
        "legacy-objects": torch_file({"a": Evil(mark)}, legacy=True),
        "legacy-zeros": torch_file({"a": Zeros(10**11)}, legacy=True),
        "pickle": pickle.dumps({"a": Evil(mark)}),
        "pickle-2": pickle.dumps({"a": Evil(mark)}, protocol=2),
        "attributes": with_attributes(state),
        "wrapped-attributes": with_attributes(state, "model"),
        "bomb": bomb(),
        "lying": lying(state),
        "repacked": repacked(good),
        "compressed": repacked(good, compression=zipfile.ZIP_DEFLATED),
        "no-index": repacked(good, lambda name, content: b"" if name.endswith(".pkl") else content),
        "nothing": b"",
        "a-byte": b"\x80",
        "page": b"<!DOCTYPE html><html>",
        "gzip": b"\x1f\x8b" + good,
        "zip": b"PK\x03\x04" + good[4:100],
        "zeros-only": bytes(1000),
        "text": b"not weights at all\n" * 9,
    }


def mutated(state: dict[str, torch.Tensor], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Good files with a few bytes changed, cut off, doubled or taken out, mostly where names and sizes are."""
    chance = random.Random(seed)
    good = {"zip": torch_file(state), "legacy": torch_file(state, legacy=True), "safetensors": save(state)}
    for i in range(count):
        form = list(good)[i % 3]
        data = bytearray(good[form])
        low, high = chance.choice(((0, 4000), (0, len(data)), (len(data) - 4000, len(data))))
        for _ in range(chance.choice((1, 3, 20))):
            place = chance.randrange(max(low, 0), min(high, len(data)))
            kind = chance.randrange(5)
            if kind < 2:
                data[place] ^= 1 << chance.randrange(8)
            elif kind == 2:
                data[place] = chance.randrange(256)
            elif kind == 3:
                del data[place : place + chance.choice((1, 8, 1000))]
            else:
                data[place:place] = data[place : place + chance.choice((1, 8, 1000))]
            if len(data) < 9000:
                break
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        yield f"{form}-{i}", bytes(data)
