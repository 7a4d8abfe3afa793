_base_ = "semantic-fpn_ravlt-t_8xb2-80k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="ravlt_s", drop_path_rate=0.15),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
published = dict(
    miou=49.5, params=28, flops=180, checkpoint="https://huggingface.co/aldjalkdf/RAVLT/resolve/main/fpn_s_1x.pth"
)
