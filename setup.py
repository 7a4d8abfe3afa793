"""Package discovery, which setup.cfg cannot say beside the configs: they lie outside of the package's folder."""

from setuptools import find_packages, setup

CONFIGS = ["backbones.configs", "backbones.configs.imagenet"]

setup(packages=[*find_packages(include=["backbones", "backbones.*"]), *CONFIGS])
