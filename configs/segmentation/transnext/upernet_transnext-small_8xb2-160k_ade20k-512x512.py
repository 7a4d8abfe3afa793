_base_ = "upernet_transnext-tiny_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="transnext_small", drop_path_rate=0.6),
)
published = dict(
    miou=52.2,
    miou_ms=52.5,
    params=80,
    checkpoint="https://huggingface.co/DaiShiResearch/upernet-transnext-small-ade/resolve/main/upernet_transnext_small_512x512_160k_ade20k_in1k.pth",
)
