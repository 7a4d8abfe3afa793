"""The dense-prediction side: multi-scale features of any model, in the form that detectors and segmentors take.

Importing it registers `backbones.Backbone` and what else of ours configs of mmdet and mmseg name with mmengine, where
that is installed: `custom_imports = dict(imports=["backbones.dense"])`. Where mmcv has no working compiled operators,
it gets those of `backbones.dense.ops`.
"""

from importlib.util import find_spec

from backbones.dense import ops  # noqa: F401
from backbones.features import DenseBackbone

__all__ = ["DenseBackbone"]

if find_spec("mmengine") is not None:
    from backbones.dense.backbone import Backbone
    from backbones.dense.batch_norm import SyncBatchNormHook
    from backbones.dense.optim import LayerDecayOptimWrapperConstructor
    from backbones.dense.tta import ScoreTTAModel

    __all__ += ["Backbone", "LayerDecayOptimWrapperConstructor", "ScoreTTAModel", "SyncBatchNormHook"]
