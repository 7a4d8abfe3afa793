_base_ = "upernet_nat-m_8xb2-amp-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="nat_b", pretrained="in1k", drop_path_rate=0.5),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
published = dict(
    miou=48.5,
    miou_ms=49.7,
    params=123,
    flops=1137,
    checkpoint="https://shi-labs.com/projects/nat/checkpoints/SEG/nat_base_upernet.pth",
)
