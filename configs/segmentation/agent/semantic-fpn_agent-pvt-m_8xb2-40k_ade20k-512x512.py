_base_ = "semantic-fpn_agent-pvt-t_8xb2-40k_ade20k-512x512.py"

model = dict(backbone=dict(model="agent_pvt_m", drop_path_rate=0.2))
published = dict(miou=44.3, params=40, flops=321)
