_base_ = "retinanet_davit-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(model="davit_s"))
published = dict(
    box_ap=48.2,
    params=59.9,
    flops=332,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/Ef9u9l_81_1PvCKGngnrkPoB1mGjelED0CzXr7RJwoQB7w?e=zTYozh",
)
