_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco_ms-crop.py",
    "../../_base_/schedules/coco_3x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="ravlt_s", pretrained="in1k", drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 320, 512]),
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
    box_ap=51.4,
    mask_ap=45.5,
    params=44,
    flops=262,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/maskrcnn_s_3x_36_epoch.pth",
)
