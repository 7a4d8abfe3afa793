_base_ = "upernet_dinat-s-t_8xb2-amp-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="dinat_s_s", pretrained="in1k", drop_path_rate=0.3),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
published = dict(
    miou=48.6,
    miou_ms=49.9,
    params=81,
    flops=1030,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/ade20k/upernet_dinat_s_small.pth",
)
