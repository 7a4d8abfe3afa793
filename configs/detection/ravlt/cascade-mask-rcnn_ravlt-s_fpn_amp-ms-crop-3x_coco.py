_base_ = [
    "../../_base_/models/cascade-mask-rcnn.py",
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
    paramwise_cfg=dict(norm_decay_mult=0.0),  # of all norms, those without "norm" in their names too
)
published = dict(
    box_ap=54.2,
    mask_ap=46.8,
    params=82,
    flops=741,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/Casmaskrcnn_s_3x_36_epoch.pth",
)
