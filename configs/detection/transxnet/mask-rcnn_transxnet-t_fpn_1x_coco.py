_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="transxnet_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[48, 96, 224, 448]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            # The authors' rule goes by their names, which say "norm" in few places of a block.
            "backbone.model.stem": dict(decay_mult=1.0),
            "downsample": dict(decay_mult=1.0),
            "mixer": dict(decay_mult=1.0),
            "mlp.norm1": dict(decay_mult=1.0),
            "mlp.norm3": dict(decay_mult=1.0),
        }
    ),
)
published = dict(
    box_ap=44.5,
    mask_ap=40.7,
    checkpoint="https://github.com/LMMMEng/TransXNet/releases/download/v1.0/maskrcnn_tiny.pth",
)
