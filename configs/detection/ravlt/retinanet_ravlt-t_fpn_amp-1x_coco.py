_base_ = [
    "../../_base_/models/retinanet.py",
    "../../_base_/datasets/coco_box.py",
    "../../_base_/schedules/coco_1x.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="ravlt_t", pretrained="in1k", drop_path_rate=0.1),
    neck=dict(in_channels=[128, 256, 512]),
)
optim_wrapper = dict(
    _delete_=True,
    type="AmpOptimWrapper",
    loss_scale=512.0,
    optimizer=dict(type="AdamW", lr=0.0001, betas=(0.9, 0.999), weight_decay=0.0001),
)
published = dict(
    box_ap=45.9,
    params=24,
    flops=201,
    checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/retinanet_t_1x_12_epoch.pth",
)
