_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    backbone=dict(model="dinat_m", pretrained="in1k", dilations="ade20k", drop_path_rate=0.2),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(
    miou=45.8,
    miou_ms=47.2,
    params=50,
    flops=900,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/ade20k/upernet_dinat_mini.pth",
)
