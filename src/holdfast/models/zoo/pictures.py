"""Small pre-trained backbones for images: built once by a recorded recipe, then kept.

A backbone learns all classes of one data set at once and is then given to streams of others, so
that methods which begin with a pre-trained backbone can be compared without any download.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from holdfast import cache, checkpoint
from holdfast.errors import CheckpointError, at_least, unknown
from holdfast.learner import Learner, Observer
from holdfast.models.classifier import Classifier
from holdfast.models.transformed import Framed
from holdfast.models.zoo.language import WarmCosine
from holdfast.spec import bind, parse_one
from holdfast.stream import Stream, white_in
from holdfast.streams.recipes import split
from holdfast.streams.sources import SOURCES, data_file, present

DEFAULT = "cnn"
PICTURES = ("digits", "mnist", "fashion-mnist", "cifar10", "omniglot")
"""Data sets that a backbone may know."""


@dataclass(frozen=True)
class PictureRecipe:
    """Everything that a small backbone is made from; two equal recipes give one backbone.

    Attributes:
        model: Spec of the architecture, in one spelling.
        on: The data set that it learns, all classes at once.
        epochs: Passes over it.
        limit: Of its training images, classes in proportion; None: all.
        batch_size: Images an update.
        lr: Peak of AdamW's learning rate, which rises over `warmup` updates and falls by half a
            cosine to a tenth.
        weight_decay: Of AdamW.
        warmup: Updates.
        threads: That compute it: they decide the order of sums, and so the last bits.
        seed: Of weights, choice and order of the images.
    """

    model: str = DEFAULT
    on: str = "fashion-mnist"
    epochs: int = 5
    limit: int | None = 10_000
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 50
    threads: int = 1
    seed: int = 0


def picture_recipe(
    model: str = DEFAULT,
    on: str = PictureRecipe.on,
    epochs: int = PictureRecipe.epochs,
    limit: int | None = PictureRecipe.limit,
    seed: int = 0,
) -> PictureRecipe:
    """The recipe behind `pretrained(cnn, on=omniglot)`.

    Args:
        model: Spec of the architecture: `cnn`, `resnet18`, `vit`, `resnet` or `mlp`; with
            arguments in quotes, `'vit(width=64, depth=4)'`.
        on: `digits`, `mnist`, `fashion-mnist`, `cifar10` or `omniglot`; all but the first need
            HOLDFAST_DATA.
        epochs: Passes over it.
        limit: Of its training images; None: all.
        seed: Of everything.

    Raises:
        UsageError: If there is no such model or data set, or if a number is out of range.
    """
    from holdfast.models.build import MODELS

    wanted = parse_one(model)
    known = [name for name in MODELS if name in ("mlp", "cnn", "resnet18", "vit", "resnet")]
    if wanted.name not in known:
        raise unknown("model", wanted.name, known, " that pretrained builds")
    if on not in PICTURES:
        raise unknown("data set", on, PICTURES, " that pretrained learns")
    at_least(1, epochs=epochs, limit=limit)
    at_least(0, seed=seed)
    return PictureRecipe(str(wanted), on, epochs, limit, seed=seed)


def recipe_in(spec: str) -> PictureRecipe | None:
    """The recipe that a model's spec names; None if it is another model's."""
    wanted = parse_one(spec)
    if wanted.name != "pretrained":
        return None
    return picture_recipe(**bind(wanted, picture_recipe, "model"))


def backbone(recipe: PictureRecipe, observers: Sequence[Observer] = ()) -> Framed:
    """The backbone of a recipe, with its preprocessing; built if it is not there yet.

    Args:
        recipe: Of the backbone.
        observers: Look on while it is built.

    Raises:
        DataError: If HOLDFAST_DATA does not hold its data set.
        RunError: If the cache cannot be written.
    """
    path = kept(recipe, observers)
    state = checkpoint.load(path / "model.safetensors")
    told = json.loads((path / "recipe.json").read_text(encoding="utf-8"))
    shape, (mean, deviation) = tuple(told["shape"]), told["scale"]
    model = _untrained(recipe, shape, told["classes"])
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged; remove it, and it is made again.") from error
    held: Any = model.backbone
    return Framed(held[1], shape[0], shape[1:], mean, deviation)


def kept(recipe: PictureRecipe, observers: Sequence[Observer] = ()) -> Path:
    """Where the backbone of a recipe is, built if it is not there yet.

    Two processes that ask at once get the same: one builds, the other waits.

    Raises:
        DataError: If HOLDFAST_DATA does not hold its data set.
        RunError: If the cache cannot be written.
    """
    path = kept_at(recipe)
    if path.is_dir():
        return path
    with cache.alone(path):
        if not path.is_dir():
            _make(recipe, path, observers)
    return path


def kept_at(recipe: PictureRecipe) -> Path:
    """Where the backbone of a recipe is kept, whether or not it is there yet.

    Raises:
        DataError: If HOLDFAST_DATA does not hold its data set.
    """
    told = {**asdict(recipe), "data": _data(recipe), "torch": torch.__version__}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=6).hexdigest()
    return cache.root() / "zoo" / f"{parse_one(recipe.model).name}-{recipe.on}-{digest}"


def _make(recipe: PictureRecipe, path: Path, observers: Sequence[Observer]) -> None:
    stream = _all_at_once(recipe)
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        model = _untrained(recipe, stream.shape, stream.classes, stream)
        learner = Learner(
            model,
            optimizer=partial(
                torch.optim.AdamW, lr=recipe.lr, weight_decay=recipe.weight_decay
            ),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            schedule=WarmCosine(recipe.warmup),
            seed=recipe.seed,
            device="cpu",
        )  # fmt: skip
        record = learner.learn(stream, observers)
    finally:
        torch.set_num_threads(threads)
    white = white_in(stream[0].train["x"], stream.white)
    told = {
        "recipe": asdict(recipe),
        "data": _data(recipe),
        "shape": stream.shape,
        "classes": stream.classes,
        "scale": [[value / white for value in values] for values in stream.scale],
        "accuracy": record.matrix[-1][0],
        "seconds": record.cost["seconds"],
    }
    with cache.whole(path) as temporary:
        checkpoint.save(temporary / "model.safetensors", model.state_dict())
        (temporary / "recipe.json").write_text(json.dumps(told, indent=1) + "\n")


def _all_at_once(recipe: PictureRecipe) -> Stream:
    """All classes of the data set in one experience."""
    source = SOURCES[recipe.on][0]()
    stream = split(source, recipe.on, recipe.seed, 1, order="natural", limit=recipe.limit)
    return stream.validated()


def _untrained(
    recipe: PictureRecipe, shape: tuple[int, ...], classes: int, stream: Stream | None = None
) -> Classifier:
    from holdfast.models.build import build

    like = stream or Stream(recipe.on, [], "class", classes, shape)
    return build(recipe.model, like, seed=recipe.seed)


def _data(recipe: PictureRecipe) -> str:
    """The file that the data set is read from, and its size; nothing for what is installed."""
    files = SOURCES[recipe.on][1]
    if not files:
        return ""
    file = next((file for file in files if present(file)), files[0])
    return f"{file} {data_file(file).stat().st_size}"
