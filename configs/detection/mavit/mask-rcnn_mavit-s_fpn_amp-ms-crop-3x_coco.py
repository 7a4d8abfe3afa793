# The authors do not state the batch that this rate is for, four times that of RAVLT.
_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="mavit_s", pretrained="in1k", drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale=512.0,
    optimizer=dict(lr=0.0004),
    paramwise_cfg=dict(
        custom_keys={
            # these BatchNorms have no "norm" in the authors' names, so they are decayed
            "backbone.model.stem.norm": dict(decay_mult=1.0),
        }
    ),
)
