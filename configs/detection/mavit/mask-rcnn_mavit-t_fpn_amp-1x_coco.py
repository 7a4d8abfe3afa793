# The authors do not state the batch that this rate is for, four times that of RAVLT.
_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="mavit_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
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
