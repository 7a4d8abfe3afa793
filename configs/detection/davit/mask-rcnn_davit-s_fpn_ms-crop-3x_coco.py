_base_ = "mask-rcnn_davit-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="davit_s"))
published = dict(
    box_ap=49.5,
    mask_ap=44.3,
    params=69.2,
    flops=351,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/EQCvUkIhwxNOrR1KibewNU0BqDDxzt311xANejUHprm0yQ?e=LiK9hX",
)
