"""Command line that draws what a model looks at."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbones.checkpoints import WeightsError
from backbones.train.cli.common import exif_transpose
from backbones.train.data.datasets import DataError
from backbones.train.data.loader import EvalLoader
from backbones.train.data.transforms import evaluation_transform
from backbones.train.evaluation.models import LoadedModel, ModelError, describe_classes, load_model
from backbones.train.evaluation.predict import ImageFiles
from backbones.train.options import OptionError, flags
from backbones.train.options.flags import Parser, read_options
from backbones.utils.files import InputError, WriteError, check_writable, find_images, write_json
from backbones.utils.terminal import guarded, say, warn
from backbones.utils.text import did_you_mean
from backbones.visualize.attention import LayerAttention, capture_attention
from backbones.visualize.features import (
    StageError,
    class_activation,
    components,
    receptive_fields,
    run_stages,
    similarity,
    stage_names,
)
from backbones.visualize.options import VisualizeOptions
from backbones.visualize.page import View, attention_views, similarity_view, write_page
from backbones.visualize.pictures import Panel, save_panel, save_sheet

HEADS = 8  # drawn at most, where none is named
LEAST_SIDE = 10  # of the map whose attention is drawn, where no stage is named
STAGES = 4  # drawn of models whose every block is a stage


def build_parser() -> Parser:
    """The command line of visualize."""
    return flags.build_parser(
        VisualizeOptions.table(),
        prog="backbones-visualize",
        description="Draw what a model attends to, sees and says, as pictures and as a page to click on.",
        epilog="Example: visualize nat_m photos/ --out pictures/nat_m --at 120,80 --stage 2",
    )


class _Views:
    """A model, and the pictures of it that were asked for."""

    def __init__(self, args: VisualizeOptions, loaded: LoadedModel, notes: Callable[[str], None]) -> None:
        self.args, self.model, self.note = args, loaded.model.requires_grad_(False), notes
        self.class_names = describe_classes(loaded.class_names, loaded.model.num_classes)
        config = loaded.data_config
        channels = config["input_size"][0]
        self.mean, self.std = (torch.tensor(config[key]).view(channels, 1, 1) for key in ("mean", "std"))
        self.stages = stage_names(self.model)
        # Models whose every block is a stage: those at equal distances.
        count = len(self.stages)
        step = 1 if count <= STAGES + 1 else count / STAGES
        self.shown = range(count) if step == 1 else [round((i + 1) * step) - 1 for i in range(STAGES)]
        height, width = config["input_size"][1:]
        self.point = (width // 2, height // 2) if args.at is None else tuple(int(side) for side in args.at.split(","))
        if not (self.point[0] < width and self.point[1] < height):
            raise OptionError(f"--at {args.at} is outside of the image of {width} x {height} pixels.")
        self.target = self._target(args.target)
        if args.stage is not None and not -count <= args.stage < count:
            raise OptionError(
                f"--stage must be between {-count} and {count - 1}, the model's stages, not {args.stage}."
            )

    def _target(self, name: str | None) -> int | None:
        if name is None:
            return None
        if name in self.class_names:
            return self.class_names.index(name)
        if not name.isdigit() or int(name) >= len(self.class_names):
            raise OptionError(f"--target {name} is no class of the model.{did_you_mean(name, self.class_names)}")
        return int(name)

    def picture(self, image: Tensor) -> np.ndarray:
        """A normalised image `(C, H, W)` as `(H, W, 3)` in 0..1."""
        pixels = (image * self.std + self.mean).clamp(0, 1)[:3]
        return pixels.expand(3, -1, -1).permute(1, 2, 0).numpy()

    def place(self, size: Sequence[int], image_size: Sequence[int]) -> tuple[int, int]:
        """Row and column of the query on a map."""
        (x, y), (height, width) = self.point, image_size
        return y * size[0] // height, x * size[1] // width

    def by_stage(self, maps: dict[str, LayerAttention]) -> dict[int, list[LayerAttention]]:
        """Captured layers, stage by stage."""
        found: dict[int, list[LayerAttention]] = {}
        for layer in maps.values():
            for i, stage in enumerate(self.stages):
                if f"{layer.name}.".startswith(f"{stage}."):
                    found.setdefault(i, []).append(layer)
        return found

    def chosen(self, maps: dict[str, LayerAttention]) -> LayerAttention:
        """The layer that is drawn."""
        stages = self.by_stage(maps)
        if not stages:
            raise StageError(f"{type(self.model).__name__} has no layer that weighs positions in its stages.")
        if self.args.stage is None:
            large = [i for i, layers in stages.items() if min(layers[-1].size) >= LEAST_SIDE]
            stage = max(large, default=max(stages))
        else:
            stage = range(len(self.stages))[self.args.stage]
        if stage not in stages:
            have = ", ".join(map(str, sorted(stages)))
            raise OptionError(f"Stage {stage} has no layer that weighs positions: those that have are {have}.")
        layers = stages[stage]
        if not -len(layers) <= self.args.block < len(layers):
            raise OptionError(
                f"--block must be between 0 and {len(layers) - 1} in stage {stage}, not {self.args.block}."
            )
        layer = layers[self.args.block]
        if self.args.head is not None and not 0 <= self.args.head < layer.num_heads:
            raise OptionError(f"--head must be between 0 and {layer.num_heads - 1}, not {self.args.head}.")
        return layer

    def attention(self, picture: np.ndarray, maps: dict[str, LayerAttention]) -> list[Panel]:
        """The chosen layer's heads."""
        layer = self.chosen(maps)
        heat = layer.at(*self.place(layer.size, picture.shape[:2]))
        signed = bool(heat.min() < -1e-3 * heat.abs().max())
        label = f"{layer.name} ({type(layer.layer).__name__})"
        if self.args.head is not None:
            heads = [self.args.head]
            panels = []
        else:
            heads = _some(layer.num_heads)
            panels = [Panel("attention_mean", f"{label}\nmean of {layer.num_heads} heads", picture, heat.abs().mean(0))]
        panels += [Panel(f"attention_head{i}", f"head {i}", picture, heat[i], signed=signed) for i in heads]
        for panel in panels:
            panel.point = self.point
        return panels

    def selections(self, picture: np.ndarray, images: Tensor) -> list[Panel]:
        """Of models that leave out tokens or pairs of them: what each block keeps."""
        if not hasattr(self.model, "selections"):
            return []
        panels = []
        for i, selection in enumerate(self.model.selections(images)):
            if not selection.tokens.all():
                title = f"block {i}: {100 * float(selection.token_share[0]):.0f} % of tokens"
                panels.append(Panel(f"selection_block{i}", title, picture, selection.map()[0].float()))
            if selection.pairs is not None:
                y, x = self.place(selection.grid, picture.shape[:2])
                prefix = selection.tokens.shape[1] - selection.grid[0] * selection.grid[1]
                keys = selection.pairs[0, :, prefix + y * selection.grid[1] + x].float().mean(0)
                title = f"block {i}: {100 * float(selection.pair_share[0]):.0f} % of pairs; heads that see a key"
                panels.append(Panel(f"pairs_block{i}", title, picture, selection.map(keys), self.point))
        return panels

    def of_image(self, images: Tensor) -> tuple[list[Panel], list[View]]:
        """Pictures of one image `(1, C, H, W)`, and views for its page."""
        show, picture = self.args.show, self.picture(images[0])
        panels, views = [Panel("image", "image", picture)], []
        maps: dict[str, LayerAttention] = {}
        with contextlib.ExitStack() as stack:
            if {"attention", "page"} & set(show):
                try:
                    maps = stack.enter_context(capture_attention(self.model))
                except ValueError as error:
                    self.note(f"no attention is drawn: {error}.")
            with torch.no_grad():
                run = run_stages(self.model, images)
        label = f"{int(run.logits[0].argmax())}" if run.logits.ndim == 2 else ""
        if self.class_names and label:
            panels[0].title = f"image: {self.class_names[int(label)]}"
        if "attention" in show and maps:
            panels += self.attention(picture, maps)
        if "selection" in show:
            panels += self.selections(picture, images)
        if "cam" in show:
            panels += self.activation(picture, images, run.logits)
        if "similarity" in show:
            for i in self.shown if self.args.stage is None else [range(len(run.maps))[self.args.stage]]:
                features = run.maps[i]
                heat = similarity(features, *self.place(features.shape[2:], picture.shape[:2]))[0]
                panels.append(
                    Panel(
                        f"similarity_stage{i}", f"similarity, {self.stages[i]}", picture, heat, self.point, signed=True
                    )
                )
        if "page" in show:
            views = self.views(maps, run.maps)
        return panels, views

    def activation(self, picture: np.ndarray, images: Tensor, logits: Tensor) -> list[Panel]:
        """Grad-CAM, where there is one."""
        try:
            target = logits.argmax(1) if self.target is None else torch.tensor([self.target])
            heat = class_activation(self.model, images, target, self.args.stage)[0]
        except StageError as error:
            self.note(str(error))
            return []
        return [Panel("cam", f"Grad-CAM: {self.class_names[int(target)]}", picture, heat, smooth=True)]

    def views(self, maps: dict[str, LayerAttention], features: Sequence[Tensor]) -> list[View]:
        """What the page can show: the chosen layer first, of other stages their last layer, and similarities."""
        layers = []
        if maps:
            first = self.chosen(maps)
            layers = [first, *(ls[-1] for i, ls in self.by_stage(maps).items() if i in self.shown)]
        views = []
        for layer in dict.fromkeys(layers):
            heads = _some(layer.num_heads) if layer.num_heads > 1 else []
            views += attention_views(layer.name, layer, heads)
        return views + [similarity_view(f"similarity, {self.stages[i]}", features[i]) for i in self.shown]


def _some(heads: int) -> list[int]:
    """Heads at equal distances, HEADS of them at most."""
    count = min(heads, HEADS)
    return [i * heads // count for i in range(count)]


def _batches(source: ImageFiles, loaded: LoadedModel, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Readable images and their places."""
    for images, index in EvalLoader(source, evaluation_transform(loaded.data_config), size, workers=0):
        real = index >= 0
        if real.any():
            yield images[real], index[real]


def _field_panels(views: _Views, batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[list[Panel], dict]:
    """Receptive fields of the shown stages, on a logarithmic scale, and their radii."""
    fields = receptive_fields(views.model, (images for images, _ in batches))
    panels, radii = [], {}
    for i in views.shown:
        half, most = (fields[i].radius(share) for share in (0.5, 0.95))
        radii[views.stages[i]] = {"radius_50": round(half, 1), "radius_95": round(most, 1)}
        heat = fields[i].contribution
        heat = (heat / heat.max().clamp(min=1e-30)).clamp(min=1e-4).log10() / 4 + 1
        title = f"receptive field, {views.stages[i]}\n50 % within {half:.0f}, 95 % within {most:.0f} pixels"
        panels.append(Panel(f"receptive_field_stage{i}", title, heat=heat))
    return panels, radii


def run(argv: Sequence[str] | None) -> int:
    """Draws everything that was asked for."""
    args = read_options(VisualizeOptions, build_parser(), argv)
    name, folder = args.words[0], Path(args.out)
    files = find_images(args.words[1:])
    check_writable(folder / "sheet.png")
    torch.manual_seed(42)  # random weights, where they are asked for, are the same every time
    loaded = load_model(
        name,
        args.checkpoint,
        pretrained=args.pretrained,
        num_classes=args.num_classes,
        in_chans=args.input_size[0] if args.input_size else args.in_chans,
        img_size=args.size,
        data_args=vars(args),
        use_ema=args.use_ema,
        reparam=args.reparam,
        model_kwargs=args.model_kwargs,
    )
    if loaded.report is not None:
        say(loaded.report.render())
    told: set[str] = set()

    def note(text: str) -> None:
        if text not in told:
            told.add(text)
            warn(f"{name}: {text}")

    views = _Views(args, loaded, note)

    def source(limit: int) -> ImageFiles:
        return ImageFiles(files[:limit], loaded.data_config["input_size"][0], exif_transpose(args, name))

    rows: list[list[Panel]] = []
    drawn: list[Tensor] = []
    stems: list[str] = []
    for images, index in _batches(source(args.limit), loaded, 1):
        file = files[int(index)]
        stem = re.sub(r"[^\w.-]", "_", file.stem)
        stems.append(stem if stem not in stems else f"{stem}_{int(index)}")
        panels, page = views.of_image(images)
        rows.append(panels)
        drawn.append(images)
        if page:
            write_page(folder / f"{stems[-1]}.html", f"{name}: {file.name}", views.picture(images[0]), page)
    if not rows:
        raise DataError("None of the images could be read.")
    if len(rows) < len(files[: args.limit]):
        warn(f"{len(files[: args.limit]) - len(rows)} of {len(files[: args.limit])} images could not be read.")
    if "components" in args.show:
        with torch.no_grad():
            maps = [run_stages(views.model, images).maps for images in drawn]
        for i in views.shown:
            colours = components(torch.cat([stages[i] for stages in maps]))
            for row, images, colour in zip(rows, drawn, colours):
                title = f"components, {views.stages[i]}"
                row.append(Panel(f"components_stage{i}", title, views.picture(images[0]), colour))
    for stem, row in zip(stems, rows):
        for panel in row:
            save_panel(panel, folder / stem / f"{panel.name}.png")
    if "receptive-field" in args.show:
        panels, radii = _field_panels(views, _batches(source(args.field_limit), loaded, 1))
        for panel in panels:
            save_panel(panel, folder / f"{panel.name}.png")
        write_json(folder / "receptive_field.json", radii)
        for stage, sizes in radii.items():
            say(f"{stage}: half of its receptive field is within {sizes['radius_50']:g} pixels")
        rows.append(panels)
    save_sheet(rows, folder / "sheet.png", name)
    say(f"wrote {folder}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    mistakes = (OptionError, ModelError, WeightsError, DataError, InputError, WriteError, StageError)
    return guarded(run, argv, mistakes)


if __name__ == "__main__":
    raise SystemExit(main())
