"""Data sets that come with the installation, or are found through HOLDFAST_DATA."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from holdfast.data import Table
from holdfast.errors import DataError
from holdfast.streams.arrays import from_arrays, read_arrays
from holdfast.streams.source import Source, scale_of

VARIABLE = "HOLDFAST_DATA"
CHARACTERS = 1000
"""In the largest source."""


def digits() -> Source:
    """Scikit-learn's 1,797 handwritten digits, 8x8; every fifth of a class is a test example."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.from_numpy(raw.images).to(torch.uint8).unsqueeze(1)
    y = torch.from_numpy(raw.target).long()
    place = torch.zeros_like(y)
    for label in range(10):
        members = (y == label).nonzero().flatten()
        place[members] = torch.arange(len(members))
    held_out = place % 5 == 4
    table = Table({"x": x, "y": y})
    train = table.where(~held_out)
    return Source(
        name="digits",
        train=train,
        test=table.where(held_out),
        class_names=tuple(str(label) for label in range(10)),
        scale=scale_of(train["x"]),
        white=16.0,
    )


def mnist() -> Source:
    """MNIST: 60,000 and 10,000 handwritten digits, 28x28."""
    return _from_arrays("mnist", "mnist/mnist.npz")


def fashion_mnist() -> Source:
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothing, 28x28."""
    return _from_arrays("fashion-mnist", "fashion_mnist/fashion_mnist.npz")


def omniglot() -> Source:
    """Omniglot: 242 characters of 8 alphabets, each by 14 drawers and by 6 others, 28x28."""
    return _from_arrays("omniglot", "omniglot/omniglot28.npz")


def omniglot_1000() -> Source:
    """A thousand characters: Omniglot's 242, turned by quarters, then mirrored and turned.

    Turned characters count as new ones (Santoro et al., "Meta-learning with memory-augmented neural
    networks", 2016); turned alone they are 968, so that the last 32 are the first ones mirrored.
    A character that looks the same when it is turned is in more than one class.
    """
    base = omniglot()
    made = {"train": [base.train], "test": [base.test]}
    names = list(base.class_names)
    for turns, mirrored, word in ((1, False, " 90"), (2, False, " 180"), (3, False, " 270"),
                                  (0, True, " mirrored")):  # fmt: skip
        for part, table in (("train", base.train), ("test", base.test)):
            few = table.where(table["y"] < CHARACTERS - len(names))
            x = few["x"].flip(3) if mirrored else few["x"].rot90(turns, (2, 3)).contiguous()
            made[part].append(Table({"x": x, "y": few["y"] + len(names)}))
        names += [name + word for name in base.class_names]
    train, test = (Table.concat(made[part]) for part in ("train", "test"))
    return replace(
        base, name="omniglot-1000", train=train, test=test, class_names=tuple(names[:CHARACTERS])
    )


def cifar10() -> Source:
    """CIFAR-10: 50,000 and 10,000 colour pictures of ten kinds of things, 32x32.

    Where only the small file is there, its 5,000 and 1,000 pictures; the name then says so.
    """
    from holdfast.streams.cifar import decoded

    try:
        packed = data_file("cifar10/cifar10_jpeg.npz")
    except DataError:
        if not present("cifar10/cifar10_small.npz"):
            raise
        return _from_arrays("cifar10-small", "cifar10/cifar10_small.npz")
    return from_arrays(decoded(packed), str(packed), "cifar10", _class_names(packed))


SOURCES: dict[str, tuple[Callable[[], Source], tuple[str, ...]]] = {
    "digits": (digits, ()),
    "mnist": (mnist, ("mnist/mnist.npz",)),
    "fashion-mnist": (fashion_mnist, ("fashion_mnist/fashion_mnist.npz",)),
    "cifar10": (cifar10, ("cifar10/cifar10_jpeg.npz", "cifar10/cifar10_small.npz")),
    "omniglot": (omniglot, ("omniglot/omniglot28.npz",)),
    "omniglot-1000": (omniglot_1000, ("omniglot/omniglot28.npz",)),
}
"""By name: how to read it, and the files in HOLDFAST_DATA of which it needs one."""


def data_file(relative: str) -> Path:
    """A file of the folder that HOLDFAST_DATA names.

    Raises:
        DataError: If the variable is not set, or the folder lacks the file.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise DataError(
            f"This stream needs data that do not come with the installation: set {VARIABLE} to a "
            f"folder that holds {relative}."
        )
    path = Path(folder).expanduser() / relative
    if not path.is_file():
        raise DataError(
            f"There is no file {relative} in {folder}, the folder that {VARIABLE} names; set "
            f"{VARIABLE} to a folder that holds it."
        )
    return path


def present(relative: str) -> bool:
    """Whether HOLDFAST_DATA is set and its folder has the file."""
    folder = os.environ.get(VARIABLE)
    return bool(folder) and (Path(folder or "").expanduser() / relative).is_file()


def _from_arrays(name: str, relative: str) -> Source:
    path = data_file(relative)
    return read_arrays(path, name, _class_names(path))


def _class_names(path: Path) -> tuple[str, ...]:
    """The names in the JSON file that lies beside the data and is called as their folder is."""
    beside = path.with_name(f"{path.parent.name}.json")
    try:
        return tuple(json.loads(beside.read_text(encoding="utf-8"))["classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{beside} cannot be read; it should list the class names.") from error
