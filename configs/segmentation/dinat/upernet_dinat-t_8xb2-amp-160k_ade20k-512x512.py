_base_ = "upernet_dinat-m_8xb2-amp-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="dinat_t", pretrained="in1k", drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
published = dict(
    miou=47.8,
    miou_ms=48.8,
    params=58,
    flops=934,
    checkpoint="https://shi-labs.com/projects/dinat/checkpoints/ade20k/upernet_dinat_tiny.pth",
)
