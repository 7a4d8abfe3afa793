_base_ = [
    "../../_base_/models/ssdlite.py",
    "../../_base_/datasets/coco_ssd-512.py",
    "../../_base_/schedules/coco_600e_flat-cosine.py",
    "../../_base_/detection_runtime.py",
]
custom_imports = dict(imports=["backbones.dense", "backbones.dense.heads"], allow_failed_imports=False)

model = dict(
    backbone=dict(model="emov2_1m", pretrained="in1k", norm_eval=True, drop_path_rate=0.04036),
    neck=dict(in_channels=[80, 180], out_channels=[80, 180, 512, 256, 256, 128]),
    bbox_head=dict(in_channels=[80, 180, 512, 256, 256, 128]),
)
train_dataloader = dict(batch_size=24)
sync_bn = None  # no BatchNorm is synchronised
published = dict(box_ap=26.6, flops=2.3)
