_base_ = "upernet_ravlt-s_8xb2-amp-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="ravlt_l", drop_path_rate=0.55),
    decode_head=dict(in_channels=[96, 192, 448, 640]),
    auxiliary_head=dict(in_channels=448),
)
published = dict(
    miou=53.2, params=125, flops=1182, checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/uper_l_2x.pth"
)
