"""Graph capture: torch.compile, torch.export, FX and torch.jit.trace, each against eager."""

from __future__ import annotations

import pytest
import torch
from timm.models import get_notrace_functions, get_notrace_modules
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from .zoo import DISTINCT, MECHANISMS, image, stir, tiny


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", MECHANISMS)
def test_compiled_forward(name):
    model = stir(tiny(name, num_classes=5))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(image(64, 96)), model(image(64, 96)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MECHANISMS)
def test_compiled_training_step(name):
    x = image(64, 64)
    results = []
    for compiled in (False, True):
        model = stir(tiny(name, num_classes=5, drop_path_rate=0.3, drop_rate=0.2)).train()
        step = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
        torch.manual_seed(3)  # both drop the same paths
        loss = step(x).square().mean()
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (loss, gradients), (compiled_loss, compiled_gradients) = results
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-4, atol=1e-5)
    scale = max(g.abs().max() for g in gradients.values()).item()
    for n, gradient in gradients.items():
        torch.testing.assert_close(
            compiled_gradients[n], gradient, rtol=1e-3, atol=1e-5 * scale, msg=lambda text, n=n: f"{n}: {text}"
        )


@pytest.mark.parametrize("name", MECHANISMS)
def test_exported_at_a_fixed_size(name):
    model = stir(tiny(name, num_classes=5))
    program = torch.export.export(model, (image(64, 96),)).module()
    x = image(64, 96, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dinat_s_t", "maxvit_t"])
def test_exported_indices_are_constants(name):
    """A graph for one size holds index tables as they are, not the arithmetic that makes them."""
    graph = torch.export.export(tiny(name, num_classes=5), (image(64, 96),)).graph
    assert not [node for node in graph.nodes if node.target is torch.ops.aten.arange.default]


@pytest.mark.parametrize("name", MECHANISMS)
def test_exported_for_many_sizes_and_batches(name):
    model = stir(tiny(name, num_classes=5))
    dynamic = {dim: torch.export.Dim.DYNAMIC for dim in (0, 2, 3)}
    program = torch.export.export(model, (image(192, 160),), dynamic_shapes=(dynamic,)).module()
    with torch.no_grad():
        for height, width, batch in ((192, 160, 2), (224, 256, 3), (288, 192, 2)):
            x = image(height, width, batch, seed=5)
            expected = model(x)
            scale = expected.abs().max().clamp(min=1).item()  # rounding grows with the largest numbers on the way
            torch.testing.assert_close(program(x), expected, rtol=1e-4, atol=1e-5 * scale)


def _traced(model):
    """FX through torchvision, with timm's leaves, as timm's own tests do it."""
    tracer = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    train, evaluation = get_graph_node_names(model, tracer_kwargs=tracer)
    return create_feature_extractor(
        model, train_return_nodes=train[-1:], eval_return_nodes=evaluation[-1:], tracer_kwargs=tracer
    )


@pytest.mark.parametrize("name", DISTINCT)
def test_fx_graph_is_bit_identical(name):
    model = stir(tiny(name, num_classes=5))
    traced = _traced(model).eval()
    with torch.no_grad():
        for height, width in ((64, 96), (75, 50), (33, 47)):
            x = image(height, width)
            (output,) = traced(x).values()
            assert torch.equal(output, model(x))


@pytest.mark.parametrize("name", DISTINCT)
def test_fx_graph_trains(name):
    model = tiny(name, num_classes=5, drop_path_rate=0.2).train()
    traced = _traced(model).train()
    (output,) = traced(image()).values()
    output.square().mean().backward()
    assert not [n for n, p in traced.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", MECHANISMS)
def test_jit_trace(name):
    model = stir(tiny(name, num_classes=5))
    with torch.no_grad():
        traced = torch.jit.trace(model, image(64, 96))
        x = image(64, 96, seed=5)
        torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)
