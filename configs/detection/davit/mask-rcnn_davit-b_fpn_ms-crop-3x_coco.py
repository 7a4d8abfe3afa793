_base_ = "mask-rcnn_davit-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="davit_b"), neck=dict(in_channels=[128, 256, 512, 1024]))
published = dict(
    box_ap=49.9,
    mask_ap=44.6,
    params=107.3,
    flops=491,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/Ed8kh4c1G41OmfIzo5sOS74Bccp1G65qg0H2s0WtcXUJZA?e=lnqLoQ",
)
