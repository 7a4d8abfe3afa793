"""TransXNet: dual dynamic token mixing."""

from backbones.models.transxnet import weights
from backbones.models.transxnet.model import TransXNet

__all__ = ["TransXNet", "weights"]
