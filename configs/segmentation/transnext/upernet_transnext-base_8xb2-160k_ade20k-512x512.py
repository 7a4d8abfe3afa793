_base_ = "upernet_transnext-tiny_8xb2-160k_ade20k-512x512.py"

model = dict(
    backbone=dict(model="transnext_base", drop_path_rate=0.7),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
published = dict(
    miou=53.0,
    miou_ms=53.5,
    params=121,
    checkpoint="https://huggingface.co/DaiShiResearch/upernet-transnext-base-ade/resolve/main/upernet_transnext_base_512x512_160k_ade20k_in1k.pth",
)
