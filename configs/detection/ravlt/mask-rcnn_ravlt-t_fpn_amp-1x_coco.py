_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="ravlt_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale=512.0,
    paramwise_cfg=dict(
        custom_keys={
            # these BatchNorms have no "norm" in the authors' names, so they are decayed
            "backbone.model.stem.norm": dict(decay_mult=1.0),
        }
    ),
)
published = dict(
    box_ap=47.3,
    mask_ap=42.7,
    params=33,
    flops=219,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/maskrcnn_t_1x_12_epoch.pth",
)
