_base_ = "upernet_smt-s_8xb2-160k_ade20k-512x512.py"

model = dict(backbone=dict(model="smt_b", drop_path_rate=0.3))
published = dict(miou=49.6, miou_ms=50.6, params=62, flops=1004)
