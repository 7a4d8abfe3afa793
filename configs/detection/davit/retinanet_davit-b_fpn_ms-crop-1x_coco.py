_base_ = "retinanet_davit-t_fpn_ms-crop-1x_coco.py"

model = dict(backbone=dict(model="davit_b"), neck=dict(in_channels=[256, 512, 1024]))
published = dict(
    box_ap=46.7,
    params=98.5,
    flops=471,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/ESKE9OFCDzxGo2D2Eyr29c0BFhc-j8OjF2WRoSxSK0gn4g?e=KfyJCA",
)
