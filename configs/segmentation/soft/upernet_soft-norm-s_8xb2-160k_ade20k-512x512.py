# The authors publish no code or settings of segmentors: the usual ones, and the drop path of ImageNet. They state 54 M
# parameters, as if the backbone had 24 M; their code's has 39 M.
_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="soft_norm_s", pretrained="in1k", drop_path_rate=0.1),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
published = dict(miou=46.2)
