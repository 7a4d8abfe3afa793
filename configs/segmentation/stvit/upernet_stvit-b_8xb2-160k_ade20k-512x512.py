# The authors publish no code or settings of segmentors: the usual ones, and the drop path of ImageNet. The abstract's
# mIoU of 51.9 is that of their best segmentor, of which it names neither model nor method.
_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="stvit_b", pretrained="in1k", drop_path_rate=0.4),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384),
)
