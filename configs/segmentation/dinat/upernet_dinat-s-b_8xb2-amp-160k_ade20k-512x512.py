_base_ = "upernet_dinat-s-t_8xb2-amp-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="dinat_s_b", pretrained="in1k", drop_path_rate=0.3),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
published = dict(
    miou=49.4,
    miou_ms=50.2,
    params=121,
    flops=1173,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/ade20k/upernet_dinat_s_base.pth",
)
