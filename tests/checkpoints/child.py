"""A process of its own: `child.py [--limit BYTES] ADDRESS ARGUMENTS` runs the command line with a tag moved to ADDRESS.

Under a limit no file can grow beyond so many bytes, as under a quota. `create` for ARGUMENTS loads the model.
"""

from __future__ import annotations

import resource
import sys

import pytest
import timm

from backbones.checkpoints.cli import main
from tests.checkpoints.zoo import TINY_NAME, publish


def run(argv: list[str]) -> int:
    if argv[0] == "--limit":
        limit, argv = int(argv[1]), argv[2:]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.MonkeyPatch.context() as monkeypatch:
        publish(monkeypatch, argv[0])
        if argv[1] == "create":
            print("ready", flush=True)
            model = timm.create_model(TINY_NAME, pretrained=True)
            print(sum(value.double().sum().item() for value in model.state_dict().values()))
            return 0
        return main(argv[1:])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
