_base_ = "upernet_dinat-m_8xb2-amp-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="dinat_s", pretrained="in1k", drop_path_rate=0.5),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
published = dict(
    miou=48.9,
    miou_ms=49.9,
    params=82,
    flops=1010,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/ade20k/upernet_dinat_small.pth",
)
