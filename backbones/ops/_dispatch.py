"""How an operator that can be computed in several ways chooses one.

A backend says why it cannot compute some inputs, and why others would rather; an operator is a list of backends, the
preferred first. "auto" is the first that has nothing to say. `explain` tells what was chosen, and why not the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from backbones._compat import is_plain_eager

_known: set[str] = {"auto"}
_default = "auto"
_decisions: list[Decision] | None = None


class Backend:
    """One way to compute an operator."""

    name: str
    package: str | None = None  # what to install for it

    def is_installed(self) -> bool:
        return True

    def unsupported_reasons(self, inputs: Any) -> list[str]:
        """Why it cannot compute these inputs, as what follows "the backend"."""
        return []

    def unsuitable_reasons(self, inputs: Any) -> list[str]:
        """Why "auto" should leave inputs that it can compute to other backends."""
        return []

    def run(self, inputs: Any) -> Tensor:
        raise NotImplementedError


class Decision(NamedTuple):
    """What an operator chose, and why not the backends that it prefers."""

    operator: str
    shape: tuple[int, ...]
    backend: str
    reasons: dict[str, list[str]]

    def __str__(self) -> str:
        reasons = [f"\n  not {name}: {'; '.join(why)}" for name, why in self.reasons.items()]
        return f"{self.operator} {self.shape}: {self.backend}{''.join(reasons)}"


class Operator:
    """A function that several backends compute.

    Args:
        name: That of the function.
        backends: The preferred first; the last takes everything.
    """

    def __init__(self, name: str, backends: Sequence[Backend]) -> None:
        self.name = name
        self.backends = {backend.name: backend for backend in backends}
        _known.update(self.backends)

    def __call__(self, inputs: Any, backend: str = "auto") -> Tensor:
        """Compute inputs, the first of which is a tensor.

        Raises:
            ValueError: An unknown backend, or one that does not take the inputs.
            ImportError: A backend that is not installed.
        """
        if backend == "auto":
            backend = _default if _default in self.backends else "auto"
        elif backend not in self.backends:
            raise ValueError(f"backend must be one of auto, {', '.join(self.backends)}, got {backend!r}.")
        chosen = self.choose(inputs) if backend == "auto" else self.backends[backend]
        if backend != "auto":
            if not chosen.is_installed():
                raise ImportError(f'backend="{backend}" needs the {backend} package: pip install {chosen.package}.')
            if reasons := chosen.unsupported_reasons(inputs):
                raise ValueError(f'backend="{backend}" {reasons[0]}: use backend="auto".')
        if _decisions is not None:
            before = list(self.backends.values())[: list(self.backends).index(chosen.name)]
            refused = {b.name: _reasons(b, inputs) or ["another backend was asked for"] for b in before}
            _decisions.append(Decision(self.name, tuple(inputs[0].shape), chosen.name, refused))
        return chosen.run(inputs)

    def choose(self, inputs: Any) -> Backend:
        """What "auto" is for these inputs."""
        *preferred, last = self.backends.values()
        return next((backend for backend in preferred if not _reasons(backend, inputs)), last)


def _reasons(backend: Backend, inputs: Any) -> list[str]:
    """Why "auto" does not choose a backend; it is imported only where it suits."""
    reasons = backend.unsuitable_reasons(inputs)
    if not reasons and not backend.is_installed():
        reasons = ["is not installed"]
    return reasons or backend.unsupported_reasons(inputs)


def is_compiled() -> bool:
    """Whether torch.compile captures a graph, which may hold kernels of ours; exported and traced graphs may not."""
    return torch.compiler.is_compiling() and not torch.compiler.is_exporting()


def no_capture_reasons(compiled: bool = False) -> list[str]:
    """Why a backend that is not made of torch's operators does not suit where a graph is captured.

    Args:
        compiled: Whether it suits torch.compile.
    """
    return [] if is_plain_eager() or (compiled and is_compiled()) else ["does not go into the captured graph"]


@contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Make `backend` what "auto" stands for inside the block, in the whole process, for all operators that have it.

    Raises:
        ValueError: on an unknown backend.
    """
    global _default
    if backend not in _known:
        raise ValueError(f"backend must be one of {', '.join(sorted(_known))}, got {backend!r}.")
    previous, _default = _default, backend
    try:
        yield
    finally:
        _default = previous


@contextmanager
def explain() -> Iterator[list[Decision]]:
    """Collect which backend runs for every operator called inside the block, and why those preferred to it do not.

    >>> with explain() as decisions:
    ...     model(images)
    >>> print(*decisions, sep="\\n")
    """
    global _decisions
    previous, _decisions = _decisions, []
    try:
        yield _decisions
    finally:
        _decisions = previous
