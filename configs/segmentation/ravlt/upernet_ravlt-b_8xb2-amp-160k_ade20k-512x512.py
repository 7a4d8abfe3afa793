_base_ = "upernet_ravlt-s_8xb2-amp-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="ravlt_b", drop_path_rate=0.4),
    decode_head=dict(in_channels=[96, 192, 384, 512]),
    auxiliary_head=dict(in_channels=384),
)
published = dict(
    miou=52.5, params=77, flops=1050, checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/uper_b_2x.pth"
)
