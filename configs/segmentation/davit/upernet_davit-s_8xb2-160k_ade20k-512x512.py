_base_ = "upernet_davit-t_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="davit_s"))
published = dict(
    miou=48.8,
    params=81,
    flops=1030,
    checkpoint="https://connecthkuhk-my.sharepoint.com/:u:/g/personal/u3007305_connect_hku_hk/Ef5hJPsJXNZLiRkUTL9-ozcBaVyVEAvolNwMUlsmJhm2Yg?e=BnJ6Et",
)
