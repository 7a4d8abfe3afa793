_base_ = "retinanet_davit-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="davit_b"), neck=dict(in_channels=[256, 512, 1024]))
published = dict(
    box_ap=48.7,
    params=98.5,
    flops=471,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/Ea7c6g_OkqpHrGIviK2Ua-4B2wc4Rd0PTdXAlA2IyTZxGQ?e=N4askR",
)
