_base_ = "upernet_davit-t_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="davit_b"),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
published = dict(
    miou=49.4,
    params=121,
    flops=1175,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/EWl80Je0fUlNlbJzI_qKgIkBFX-epbfK3Vzgdq1C2iOsuA?e=wumOBS",
)
