_base_ = "mask-rcnn_davit-t_fpn_ms-crop-1x_coco.py"

model = dict(backbone=dict(model="davit_s"))
published = dict(
    box_ap=47.7,
    mask_ap=42.9,
    params=69.2,
    flops=351,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/EVgVH-9l--pJpBuly1xwsAkBx57Ph9ZAajt31vk-TqQPrA?e=byv2uC",
)
