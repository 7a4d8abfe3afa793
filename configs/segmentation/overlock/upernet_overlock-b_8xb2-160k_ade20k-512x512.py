_base_ = "upernet_overlock-t_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="overlock_b", drop_path_rate=0.5),
    decode_head=dict(in_channels=[80, 160, 528, 720]),
    auxiliary_head=dict(in_channels=528),
)
published = dict(
    miou=51.7, checkpoint="https://github.com/LMMMEng/OverLoCK/releases/download/v1/upernet_overlock_base_ade20k.pth"
)
