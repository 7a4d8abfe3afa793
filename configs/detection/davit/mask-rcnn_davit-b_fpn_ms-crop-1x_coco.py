_base_ = "mask-rcnn_davit-t_fpn_ms-crop-1x_coco.py"

model = dict(backbone=dict(model="davit_b"), neck=dict(in_channels=[128, 256, 512, 1024]))
published = dict(
    box_ap=48.2,
    mask_ap=43.3,
    params=107.3,
    flops=491,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/EY5MU9O8n0ZPrvzCgakS4PoBdg6H3FCOSi1QVNCpJSQJ7g?e=MtdUGz",
)
