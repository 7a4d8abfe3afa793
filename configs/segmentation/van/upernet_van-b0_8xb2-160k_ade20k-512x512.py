_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k_aligned.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="van_b0", pretrained="in1k", drop_path_rate=0.1),
    decode_head=dict(in_channels=[32, 64, 160, 256]),
    auxiliary_head=dict(in_channels=160),
)
published = dict(miou_ms=41.1, params=32)
