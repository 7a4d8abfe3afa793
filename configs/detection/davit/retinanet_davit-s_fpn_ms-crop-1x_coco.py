_base_ = "retinanet_davit-t_fpn_ms-crop-1x_coco.py"

model = dict(backbone=dict(model="davit_s"))
published = dict(
    box_ap=46.0,
    params=59.9,
    flops=332,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/EfWFiJY0iEpGhPzwQA5nv7IB-8bgnVfCHQVT4FqX8UeK9w?e=sr0Ed6",
)
