_base_ = "upernet_crossformer-s_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="crossformer_b", drop_path_rate=0.3),
)
published = dict(miou=49.7, miou_ms=50.6, params=83.6, flops=1089.7)
