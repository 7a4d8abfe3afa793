_base_ = "upernet_l2vit-t_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="l2vit_s"))
