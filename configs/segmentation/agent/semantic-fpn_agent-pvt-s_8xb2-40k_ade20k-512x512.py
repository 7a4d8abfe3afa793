_base_ = "semantic-fpn_agent-pvt-t_8xb2-40k_ade20k-512x512.py"

model = dict(backbone=dict(model="agent_pvt_s", drop_path_rate=0.1))
published = dict(miou=44.18, params=24, flops=211)
