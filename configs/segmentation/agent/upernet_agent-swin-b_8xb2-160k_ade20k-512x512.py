_base_ = "upernet_agent-swin-t_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="agent_swin_b", drop_path_rate=0.5),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
published = dict(miou=48.73, params=121, flops=1196)
