_base_ = "upernet_overlock-t_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="overlock_s", drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 448, 640]),
    auxiliary_head=dict(in_channels=448),
)
published = dict(
    miou=51.3, checkpoint="https://github.com/LMMMEng/OverLoCK/releases/download/v1/upernet_overlock_small_ade20k.pth"
)
