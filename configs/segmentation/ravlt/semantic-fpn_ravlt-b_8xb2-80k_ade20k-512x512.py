_base_ = "semantic-fpn_ravlt-t_8xb2-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="ravlt_b", drop_path_rate=0.4),
    neck=dict(in_channels=[96, 192, 384, 512]),
)
published = dict(
    miou=51.9, params=51, flops=292, checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/fpn_b_1x.pth"
)
