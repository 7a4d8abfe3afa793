_base_ = [
    "../../_base_/models/upernet.py",
    "../../_base_/datasets/ade20k_640.py",
    "../../_base_/schedules/ade20k_160k.py",
    "../../_base_/segmentation_runtime.py",
]

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(model="dinat_s_l", pretrained="in22k", dilations="ade20k_640_s", drop_path_rate=0.3),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
optim_wrapper = dict(type="AmpOptimWrapper", loss_scale=512.0)
published = dict(
    miou=53.4,
    miou_ms=54.6,
    params=234,
    flops=2466,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/ade20k/upernet_dinat_s_large.pth",
)
