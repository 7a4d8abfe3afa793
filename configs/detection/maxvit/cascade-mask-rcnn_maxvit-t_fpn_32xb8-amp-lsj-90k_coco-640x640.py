_base_ = [
    "../../_base_/models/cascade-mask-rcnn_maxvit.py",
    "../../_base_/datasets/coco_lsj-640.py",
    "../../_base_/schedules/maxvit_coco.py",
    "../../_base_/detection_runtime_iters.py",
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=640),
    backbone=dict(model="maxvit_t", pretrained="in1k", img_size=640, drop_path_rate=0.7),
    neck=dict(in_channels=[128, 256, 512]),
)
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(optimizer=dict(lr=0.002, weight_decay=0.0001))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=6000),
    # longer than the training
    dict(type="CosineAnnealingLR", eta_min_ratio=0.03, by_epoch=False, begin=0, T_max=115750, end=115750),
]
published = dict(box_ap=49.97, mask_ap=42.69)
