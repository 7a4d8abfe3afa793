"""Speed and memory of models and operators, as ratios within one run."""
