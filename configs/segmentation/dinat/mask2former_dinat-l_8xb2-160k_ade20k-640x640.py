_base_ = [
    "../../_base_/models/mask2former-semantic.py",
    "../../_base_/datasets/ade20k_mask2former.py",
    "../../_base_/schedules/mask2former_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="dinat_l_11x11", pretrained="in22k", dilations="mask2former", drop_path_rate=0.3),
    decode_head=dict(in_channels=[192, 384, 768, 1536], num_queries=100),
)
tta_model = dict(type="backbones.ScoreTTAModel")
published = dict(
    miou_ms=58.1,
    params=220,
    flops=518,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/m2f/mask2former_dinat_large_ade20k_semantic.pth",
)
