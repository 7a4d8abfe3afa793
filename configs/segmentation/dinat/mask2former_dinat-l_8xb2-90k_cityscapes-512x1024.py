_base_ = [
    "../../_base_/models/mask2former-semantic.py",
    "../../_base_/datasets/cityscapes_mask2former.py",
    "../../_base_/schedules/mask2former_90k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    backbone=dict(model="dinat_l_11x11", pretrained="in22k", dilations="mask2former", drop_path_rate=0.3),
    decode_head=dict(
        in_channels=[192, 384, 768, 1536],
        num_queries=100,
        num_classes=19,
        loss_cls=dict(class_weight=[1.0] * 19 + [0.1]),
    ),
)
tta_model = dict(type="backbones.ScoreTTAModel")
published = dict(
    miou_ms=84.5,
    params=220,
    flops=509,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/m2f/mask2former_dinat_large_cityscapes_semantic.pth",
)
