_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="smt_s", pretrained="in1k", drop_path_rate=0.2, drop_values=True),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(
    optimizer=dict(lr=0.0002),
    paramwise_cfg=dict(
        custom_keys={
            # these BatchNorms have no "norm" in the authors' names, so they are decayed
            "backbone.model.stem.norm1": dict(decay_mult=1.0),
            "attn.norm": dict(decay_mult=1.0),
        }
    ),
)
sync_bn = None  # no BatchNorm is synchronised
published = dict(box_ap=49.0, mask_ap=43.4, params=40, flops=265)
