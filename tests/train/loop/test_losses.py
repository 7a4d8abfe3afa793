"""Losses of labels and of teachers, by their values."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.task import DistillationTeacher

from backbones.train.evaluation.models import ModelError
from backbones.train.loop.losses import Distillation, TrainingLoss, build_criterion, build_distillation
from backbones.train.options.recipe import parse_command_line, resolve

CONFIG = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
CPU = torch.device("cpu")


def options_of(text: str):
    return resolve(*parse_command_line(f"--data x --model test_vit {text}".split()))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A file of weights of a test_resnet with 4 classes, and that model."""
    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=4).eval()
    file = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.save(model.state_dict(), file)
    return file, model


def distilled(text: str, teacher, student=None):
    options = options_of(f"--kd-model-name test_resnet --kd-pretrained-path {teacher[0]} {text}")
    loss = TrainingLoss(build_criterion(options, False), 0.4, build_distillation(options, CONFIG, 4, CPU))
    return loss, loss.trainable(student or timm.create_model("test_vit", num_classes=4, img_size=64))


def seen_by(teacher, images):
    """The images as the teacher was trained to see them."""
    mean, std = (torch.tensor(teacher.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (images * 0.25 + 0.5 - mean) / std


def test_positive_weight_of_the_binary_cross_entropy():
    logits, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1])
    target = F.one_hot(labels, 4).double()
    plain, weighed = (
        build_criterion(options_of(f"--bce-loss --smoothing 0 {more}"), False)(logits, labels)
        for more in ("", "--bce-pos-weight 3")
    )
    parts = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    assert plain == pytest.approx(parts.mean().item())
    assert weighed == pytest.approx((parts * (1 + 2 * target)).mean().item())


def test_losses_of_the_model_itself_are_added_as_they_are():
    torch.manual_seed(0)
    logits, aux, labels = torch.randn(3, 4), torch.randn(3, 4), torch.tensor([0, 1, 2])
    balance = torch.tensor(0.25, requires_grad=True)
    loss = TrainingLoss(build_criterion(options_of("--smoothing 0"), False), aux_weight=0.5)
    value, main = loss((logits, aux, balance, torch.tensor(2.0)), labels, None)
    assert torch.equal(main, logits)
    labelled = F.cross_entropy(logits, labels) + 0.5 * F.cross_entropy(aux, labels)
    assert value.item() == pytest.approx(labelled.item() + 2.25)
    value.backward()
    assert balance.grad == 1


def test_logits_are_taught(teacher):
    loss, trained = distilled("--task-loss-weight 1 --distill-loss-weight 5 --kd-temperature 2 --smoothing 0", teacher)
    images, labels = torch.randn(3, 3, 64, 64), torch.tensor([0, 1, 2])
    output = trained(images)
    value, logits = loss(output, labels, images)
    taught = (teacher[1](seen_by(teacher[1], images)) / 2).softmax(-1)
    divergence = (taught * (taught.log() - (logits / 2).log_softmax(-1))).sum(-1).mean() * 4
    assert value.item() == pytest.approx((F.cross_entropy(logits, labels) + 5 * divergence).item(), rel=1e-4)


def test_the_teacher_sees_images_of_its_own_size(teacher):
    loss, trained = distilled("--task-loss-weight 0 --distill-loss-weight 1 --kd-img-size 32", teacher)
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    value, logits = loss(trained(images), labels, images)
    small = F.interpolate(seen_by(teacher[1], images), (32, 32), mode="bicubic", antialias=True)
    taught = teacher[1](small).softmax(-1)
    assert value.item() == pytest.approx(
        (taught * (taught.log() - logits.log_softmax(-1))).sum(-1).mean().item(), rel=1e-4
    )


def test_features_are_taught_through_a_projection(teacher):
    student = timm.create_model("test_vit", num_classes=4, img_size=64)
    loss, trained = distilled(
        "--kd-distill-type feature --task-loss-weight 0 --distill-loss-weight 1", teacher, student
    )
    images = torch.randn(2, 3, 64, 64)
    value, logits = loss(trained(images), torch.tensor([0, 1]), images)
    maps = student.forward_features(images)
    learned = trained.projection(student.forward_head(maps, pre_logits=True))
    seen = teacher[1].forward_features(seen_by(teacher[1], images))
    taught = teacher[1].forward_head(seen, pre_logits=True)
    assert learned.shape == taught.shape and trained.projection.weight.shape == (taught.shape[1], student.num_features)
    assert value.item() == pytest.approx(F.mse_loss(learned, taught).item(), rel=1e-4)
    assert torch.allclose(logits, student(images), atol=1e-6)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_a_distillation_head_is_taught(kind, teacher):
    student = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=4, img_size=64, depth=1, embed_dim=32, num_heads=2
    )
    loss, trained = distilled(f"--kd-distill-type token --kd-token-distill-type {kind} --smoothing 0", teacher, student)
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    trained.train()
    main, head = trained(images)
    value, logits = loss((main, head), labels, images)
    taught = teacher[1](seen_by(teacher[1], images))
    lesson = (
        F.cross_entropy(head, taught.argmax(-1))
        if kind == "hard"
        else (taught.softmax(-1) * (taught.log_softmax(-1) - head.log_softmax(-1))).sum(-1).mean()
    )
    assert logits is not head and torch.equal(logits, main)
    assert value.item() == pytest.approx((F.cross_entropy(main, labels) + lesson).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("--kd-pretrained-path absent.pth", "--kd-pretrained-path absent.pth does not exist."),
        ("--kd-model-kwargs blok=3", "--kd-model-kwargs: test_resnet takes no blok. Did you mean block"),
        ("--kd-distill-type token", "needs a model with a distillation head"),
        ("--kd-patch-loss-weight 1", "needs vision transformers of one width; test_resnet has no patch tokens."),
    ],
)
def test_bad_teachers_are_one_sentence(text, sentence, teacher):
    with pytest.raises(ModelError) as caught:
        distilled(text, teacher)
    assert sentence in str(caught.value)


def test_losses_of_the_labels_that_a_model_has_itself():
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    loss = TrainingLoss(build_criterion(options_of("--smoothing 0"), False))
    value, main = loss((logits, lambda given, target: given.sum() + target.sum()), labels, None)
    assert torch.equal(main, logits)
    assert value.item() == pytest.approx((F.cross_entropy(logits, labels) + logits.sum() + 3).item(), rel=1e-5)


def test_patch_tokens_are_taught():
    options = options_of(
        "--kd-model-name test_vit --kd-patch-loss-weight 3 --task-loss-weight 1 --distill-loss-weight 2"
    )
    teacher, student = (timm.create_model("test_vit", num_classes=4, img_size=64).eval() for _ in range(2))
    teaching = Distillation(DistillationTeacher(teacher), options, CONFIG["mean"], CONFIG["std"])
    loss = TrainingLoss(torch.nn.CrossEntropyLoss(), distillation=teaching)
    trained = loss.trainable(student)
    images, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    value, logits = loss(trained(images), labels, images)
    seen = seen_by(teacher, images)
    taught, tokens = teacher(seen).log_softmax(-1), teacher.forward_features(seen)[:, 1:]
    torch.testing.assert_close(logits, student(images))
    divergence = F.kl_div(logits.log_softmax(-1), taught, reduction="batchmean", log_target=True)
    patches = F.mse_loss(student.forward_features(images)[:, 1:], tokens)
    expected = F.cross_entropy(logits, labels) + 2 * divergence + 3 * patches
    assert value.item() == pytest.approx(expected.item(), rel=1e-4) and patches > 0.01

    tokens, mask = student.forward_features(images), torch.zeros(2, 17, dtype=torch.bool)
    mask[0, :5] = mask[1, :9] = True
    student.forward_kept = lambda x: (tokens, mask)
    value, _ = loss(trained(images), labels, images)
    taught_tokens = teacher.forward_features(seen)
    of_kept = torch.cat([tokens[i, 1:n] - taught_tokens[i, 1:n] for i, n in enumerate((5, 9))]).square().mean()
    assert value.item() == pytest.approx((expected + 3 * (of_kept - patches)).item(), rel=1e-4)
