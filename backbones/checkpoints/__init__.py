"""Pretrained weights: where they come from, the local store, conversion, verification, export."""

from backbones.checkpoints.convert import load_into, renamed
from backbones.checkpoints.errors import WeightsError
from backbones.checkpoints.identification import Candidate, identify
from backbones.checkpoints.reading import averaged, read_checkpoint, tensors_of
from backbones.checkpoints.store import Record, Store
from backbones.checkpoints.weights import convert_file, get, load, locate, pretrained_args

__all__ = [
    "Candidate",
    "Record",
    "Store",
    "WeightsError",
    "averaged",
    "convert_file",
    "get",
    "identify",
    "load",
    "load_into",
    "locate",
    "pretrained_args",
    "read_checkpoint",
    "renamed",
    "tensors_of",
]
