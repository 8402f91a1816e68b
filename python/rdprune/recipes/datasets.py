"""The recipes' pictures: from a folder that the user names, or made up."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from rdprune.demo.data import Batches
from rdprune.recipes.cifar10 import MEAN, STD
from rdprune.recipes.networks import library
from rdprune.recipes.recipe import Recipe

Pictures = Dataset[tuple[Tensor, int]]
EVALUATION_BATCH = 256
PADDING = 4
FAKE = 64


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Training pictures, with and without augmentation, and test pictures.

    Attributes
    ----------
    augmented, plain, test : Dataset
        Of pictures, float32 of shape (3, h, w), normalised, and labels.
    pixels : int
        Height and width.
    """

    augmented: Pictures
    plain: Pictures
    test: Pictures
    pixels: int

    def calibration(self, samples: int) -> Batches:
        """Return this many training pictures, always the same, in batches."""
        size = _size(self.plain)
        if samples > size:
            raise ValueError(f"the data has {size} training pictures, {samples} asked for")
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        chosen = Subset(self.plain, order[:samples].tolist())
        return list(_loader(chosen, EVALUATION_BATCH, torch.Generator()))

    def tested(self, samples: int | None = None) -> Iterable[tuple[Tensor, Tensor]]:
        """Return the test pictures, or so many of them, always the same, read in batches."""
        size = _size(self.test)
        if samples is not None and not 1 <= samples <= size:
            raise ValueError(f"tested is {samples}, must be from 1 to the {size} test pictures")
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
        chosen = order[: size if samples is None else samples].tolist()
        own = torch.Generator()  # which a loader would else draw a seed from
        return _loader(Subset(self.test, chosen), EVALUATION_BATCH, own)

    def stream(self, batch: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield training batches without end, shuffled anew in each pass."""
        generator = torch.Generator().manual_seed(seed)
        size = min(batch, _size(self.augmented))
        while True:
            yield from _loader(self.augmented, size, generator, shuffle=True, drop_last=True)


def open_source(recipe: Recipe, data: str) -> Source:
    """Find a recipe's data.

    Parameters
    ----------
    recipe : Recipe
        Says whether it is CIFAR-10 or ImageNet.
    data : str
        ``"fake"``, or ``"fake:32"`` for pictures of 32 pixels; or a folder with, for CIFAR-10,
        the ``.npz`` files of `rdprune.recipes.cifar10` or torchvision's
        ``cifar-10-batches-py``; for ImageNet the folders ``train`` and ``val`` with a folder for
        each class.

    Raises
    ------
    ValueError
        If the folder has neither.
    ImportError
        If Pillow or torchvision is needed and missing.
    """
    if data == "fake" or data.startswith("fake:"):
        pixels = recipe.picture[-1]
        if data != "fake":
            try:
                pixels = int(data.removeprefix("fake:"))
            except ValueError:
                raise ValueError(f"data is {data!r}, must be fake:PIXELS") from None
        if pixels < 1:
            raise ValueError(f"data is {data!r}, must be fake:PIXELS with at least 1 pixel")
        fake = _Fake(recipe.classes, pixels, max(FAKE, recipe.calibration))
        return Source(fake, fake, fake, pixels)
    folder = Path(data)
    if not folder.is_dir():
        raise ValueError(f"data {data!r} is not a folder")
    return _cifar10(folder) if recipe.data == "cifar10" else _imagenet(folder)


def _cifar10(folder: Path) -> Source:
    archives = [folder / f"cifar10_jpeg_{part}.npz" for part in ("train", "test")]
    if all(path.is_file() for path in archives):
        train, test = _Archive(archives[0]), _Archive(archives[1])
        return Source(_Augmented(train), train, test, 32)
    if not (folder / "cifar-10-batches-py").is_dir():
        raise ValueError(
            f"{folder} has neither cifar10_jpeg_train.npz and cifar10_jpeg_test.npz nor "
            "cifar-10-batches-py"
        )
    # torchvision checks the files' digests before it reads them.
    read = partial(library("torchvision.datasets").CIFAR10, folder)
    shown, held = (
        _Pixels(part.data, part.targets) for part in (read(train=True), read(train=False))
    )
    return Source(_Augmented(shown), shown, held, 32)


def _imagenet(folder: Path) -> Source:
    for part in ("train", "val"):
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} has no folder {part!r} of classes")
    datasets = library("torchvision.datasets")
    change = library("torchvision.transforms")
    end = change.Lambda(normalised)
    shown = change.Compose([change.Resize(256), change.CenterCrop(224), end])
    varied = change.Compose([change.RandomResizedCrop(224), change.RandomHorizontalFlip(), end])
    return Source(
        datasets.ImageFolder(folder / "train", varied),
        datasets.ImageFolder(folder / "train", shown),
        datasets.ImageFolder(folder / "val", shown),
        224,
    )


def normalised(picture: Any) -> Tensor:
    """Return a PIL picture as float32 of shape (3, h, w), normalised."""
    values = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(((values - MEAN) / STD).transpose(2, 0, 1)))


def augment(
    pictures: Tensor, *, mirrored: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Return each picture moved by up to four pixels, and mirrored or not.

    Parameters
    ----------
    pictures : torch.Tensor
        float32 of shape (n, c, h, w), normalised.
    mirrored : bool
        Whether half of them are mirrored.
    generator : torch.Generator, optional
        Torch's own by default.
    """
    count, _, height, width = pictures.shape
    down, right = torch.randint(2 * PADDING + 1, (2, count, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    if mirrored:
        flipped = torch.randint(2, (count, 1), generator=generator).bool()
        columns = torch.where(flipped, columns.flip(1), columns)
    padded = functional.pad(pictures, (PADDING,) * 4).permute(0, 2, 3, 1)
    each = torch.arange(count)[:, None, None]
    moved = padded[each, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


class _Pixels(Dataset[tuple[Tensor, int]]):
    """Pictures as bytes; whole batches are normalised at once.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8 of shape (n, h, w, 3).
    labels : sequence of int
        One a picture.
    """

    def __init__(self, pixels: NDArray[np.uint8], labels: Any) -> None:
        self._pixels = pixels
        self._labels = torch.as_tensor(np.asarray(labels, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pictures, labels = self.__getitems__([index])
        return pictures[0], int(labels[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch, which torch's loader asks for where a dataset has it."""
        values = self._pixels[indices].astype(np.float32) / 255
        pictures = np.ascontiguousarray(((values - MEAN) / STD).transpose(0, 3, 1, 2))
        return torch.from_numpy(pictures), self._labels[indices]


class _Archive(_Pixels):
    """Pictures of one ``.npz`` file of JPEGs, each decoded when it is first asked for."""

    def __init__(self, path: Path) -> None:
        try:
            from PIL import Image
        except ImportError as error:
            message = "Pillow is missing: pip install 'rdprune-core[recipes]'"
            raise ImportError(message, name="PIL") from error
        self._open = Image.open
        with np.load(path, allow_pickle=False) as archive:
            self._data, self._offsets = archive["jpeg"], archive["offsets"]
            labels = archive["labels"]
        super().__init__(np.empty((len(labels), 32, 32, 3), dtype=np.uint8), labels)
        self._decoded = np.zeros(len(labels), dtype=np.bool_)

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        for index in indices:
            if not self._decoded[index]:
                start, stop = self._offsets[index : index + 2]
                with self._open(io.BytesIO(self._data[start:stop].tobytes())) as picture:
                    self._pixels[index] = np.asarray(picture.convert("RGB"))
                self._decoded[index] = True
        return super().__getitems__(indices)


class _Augmented(Dataset[tuple[Tensor, int]]):
    """Pictures that are moved and mirrored anew each time."""

    def __init__(self, source: _Pixels) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pictures, labels = self.__getitems__([index])
        return pictures[0], int(labels[0])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        pictures, labels = self._source.__getitems__(indices)
        return augment(pictures).contiguous(), labels


class _Fake(Dataset[tuple[Tensor, int]]):
    """Pictures of noise, each of the class of its index."""

    def __init__(self, classes: int, pixels: int, size: int) -> None:
        self._classes = classes
        self._pixels = pixels
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        shape = (3, self._pixels, self._pixels)
        return torch.randn(shape, generator=generator), index % self._classes


def _loader(
    dataset: Pictures, batch: int, generator: torch.Generator, **options: Any
) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(dataset, batch, generator=generator, collate_fn=_together, **options)


def _together(batch: Any) -> Any:
    """Return a batch that the dataset made whole as it is; put others together."""
    return batch if isinstance(batch, tuple) else default_collate(batch)


def _size(dataset: Pictures) -> int:
    return len(dataset)  # type: ignore[arg-type]
