_base_ = [
    "../../_base_/models/mask-rcnn.py",
    "../../_base_/datasets/coco.py",
    "../../_base_/schedules/coco_1x_flat-cosine.py",
    "../../_base_/detection_runtime.py",
]

model = dict(
    backbone=dict(model="emov2_1m", pretrained="in1k", frozen_stages=1, norm_eval=True, drop_path_rate=0.04036),
    neck=dict(in_channels=[32, 48, 80, 180]),
)
train_dataloader = dict(batch_size=4)
sync_bn = None  # no BatchNorm is synchronised
published = dict(box_ap=37.1, mask_ap=35.0, params=21.2, flops=165)
