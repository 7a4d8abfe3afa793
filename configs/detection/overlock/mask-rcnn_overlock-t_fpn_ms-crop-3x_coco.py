_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="overlock_t", pretrained="in1k", overview_out=True, drop_path_rate=0.2),
    neck=dict(in_channels=[64, 128, 384, 640]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            # The authors' rule goes by their names, which say "norm" only in focus blocks and at the outputs.
            "backbone.model.stem": dict(decay_mult=1.0),
            "downsample": dict(decay_mult=1.0),
            "mixer": dict(decay_mult=1.0),
            "stages.0.blocks": dict(decay_mult=1.0),
            "stages.1.blocks": dict(decay_mult=1.0),
            "base.blocks": dict(decay_mult=1.0),
            "overview.blocks": dict(decay_mult=1.0),
        }
    ),
)
published = dict(
    box_ap=49.6,
    mask_ap=43.9,
    checkpoint="https://github.com/LMMMEng/OverLoCK/releases/download/v1/maskrcnn3x_overlock_tiny_coco.pth",
)
