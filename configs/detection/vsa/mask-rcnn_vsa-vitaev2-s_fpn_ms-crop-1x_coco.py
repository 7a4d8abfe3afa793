_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="vsa_vitaev2_s", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            "relative_position_bias_table": dict(decay_mult=0.0),
            # BatchNorms have no "norm" in the authors' names, so they are decayed
            "pcm.norm": dict(decay_mult=1.0),
        }
    )
)
sync_bn = None  # no BatchNorm is synchronised
published = dict(box_ap=45.9, mask_ap=41.4, params=37)
