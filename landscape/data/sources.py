"""Sources of labelled images, all in one form: bytes in a tensor, labels beside them.

| spec | what | where |
|---|---|---|
| ``digits`` | 1,797 images of 8×8, 10 classes, inside scikit-learn | nowhere: nothing to fetch |
| ``fashion-mnist`` | 70,000 images of 28×28, 10 classes, the four idx files, gzipped or not | ``root`` |
| ``cifar10``, ``cifar100`` | 60,000 images of 32×32, the Python version | ``root`` |
| ``folder:PATH`` | any images in ``PATH/train/<class>/*`` and ``PATH/test/<class>/*`` | ``PATH`` |
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from landscape.errors import LandscapeError, did_you_mean
from landscape.torchvision_import import import_torchvision

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory, as bytes: a quarter of the size of float32, and exact."""

    images: Tensor  # (N, C, H, W) uint8, 0 to 255
    labels: Tensor  # (N,) int64, 0 to C−1
    class_names: tuple[str, ...]  # (C,), position = label

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise LandscapeError(
                f"images must be uint8 of shape (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise LandscapeError(
                f"labels must be int64 of shape ({len(self.images)},), "
                f"got {self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """C, whether or not every class has images here."""
        return len(self.class_names)

    def to(self, device: torch.device | str) -> ImageSet:
        """The same images on ``device``."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.class_names)

    def select(self, index: Tensor | Sequence[int]) -> ImageSet:
        """The images at the positions ``index``, in that order; all class names stay."""
        positions = torch.as_tensor(index, dtype=torch.int64, device=self.labels.device)
        return ImageSet(self.images[positions], self.labels[positions], self.class_names)

    def class_counts(self) -> tuple[int, ...]:
        """Images in each class, shape (C,)."""
        return tuple(torch.bincount(self.labels, minlength=self.num_classes).tolist())

    def fingerprint(self) -> str:
        """SHA-256, 64 hexadecimal digits, of the shape, the pixels and the labels in their order.

        Equal for equal data on any device; one changed pixel or two exchanged images change it.
        """
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().numpy().astype("<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a source, opened but not decoded: the labels are known, the pixels are read when asked for."""

    labels: Tensor  # (N,) int64
    class_names: tuple[str, ...]  # (C,)
    decode: Callable[[NDArray[np.int64]], Tensor]  # positions (n,) -> images (n, C, H, W) uint8

    def load(self, index: Tensor | Sequence[int] | None = None) -> ImageSet:
        """Decode the images at the positions ``index``, in that order, and no others; all of them when ``None``."""
        positions = torch.arange(len(self.labels)) if index is None else torch.as_tensor(index, dtype=torch.int64).cpu()
        return ImageSet(self.decode(positions.numpy()), self.labels[positions], self.class_names)


def source_names() -> tuple[str, ...]:
    """The forms a source specification can take."""
    return ("cifar10", "cifar100", "digits", "fashion-mnist", "folder:PATH")


def open_split(
    spec: str,
    split: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
) -> Split:
    """Open one split of a source.

    Args:
        spec: one of :func:`source_names`, for example ``cifar10`` or ``folder:data/birds``.
        split: ``train`` or ``test``.
        root: folder with the files of ``cifar10``, ``cifar100`` or ``fashion-mnist``; a relative PATH of
            ``folder:PATH`` is taken from here. ``digits`` needs none.
        download: fetch missing files of ``cifar10``, ``cifar100`` or ``fashion-mnist`` into ``root``.
        image_size: pixels, for ``folder:PATH`` only: resize the shorter side to this and crop the centre square.

    Returns:
        The split; class names are in label order, which for folders is the order of the names.

    Raises:
        LandscapeError: an unknown source or split, or files that are missing, empty or unreadable.
    """
    if split not in ("train", "test"):
        raise LandscapeError(f"unknown split '{split}': use 'train' or 'test'")
    if spec.startswith("folder:"):
        if image_size is not None and image_size < 1:
            raise LandscapeError(f"--image-size {image_size}: expected a positive number of pixels")
        return _open_folder(spec, split, root, image_size)
    if spec not in source_names():
        raise LandscapeError(_unknown_source(spec))
    if image_size is not None:
        raise LandscapeError(f"--image-size {image_size}: only folder:PATH can be resized, '{spec}' has one fixed size")
    if spec == "digits":
        return _open_digits(split)
    if root is None:
        raise LandscapeError(f"'{spec}' needs the folder with its files: --root FOLDER (and --download to fetch them)")
    folder = Path(root).expanduser()
    if not folder.is_dir() and not download:
        raise LandscapeError(
            f"'{spec}': no folder '{folder}'; correct --root, or add --download to fetch the files there"
        )
    if spec == "fashion-mnist":
        return _open_fashion_mnist(split, folder, download)
    return _open_cifar(spec, split, folder, download)


def _unknown_source(spec: str) -> str:
    if spec and Path(spec).expanduser().is_dir():
        hint = f"; for a folder of images write 'folder:{spec}'"
    else:
        hint = did_you_mean(spec, source_names())
    return f"unknown data source '{spec}'{hint}\nKnown sources: {', '.join(source_names())}"


def _in_memory(images: NDArray[np.uint8], labels: NDArray[Any], class_names: Sequence[str]) -> Split:
    """A split whose images (N, C, H, W) are already decoded."""
    return Split(
        labels=torch.from_numpy(labels.astype(np.int64)),
        class_names=tuple(class_names),
        decode=lambda positions: torch.from_numpy(np.ascontiguousarray(images[positions])),
    )


def _open_digits(split: str) -> Split:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Integer arithmetic: 16 grey levels to 255 without a rounding that could differ between machines.
    images = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[:, None]
    # NumPy promises that this stream never changes; a library's splitter does not.
    generator = np.random.RandomState(0)
    training = np.zeros(len(images), dtype=bool)
    for label in range(10):
        positions = np.flatnonzero(digits.target == label)
        generator.shuffle(positions)
        training[positions[: round(0.7 * len(positions))]] = True
    chosen = training if split == "train" else ~training
    return _in_memory(images[chosen], digits.target[chosen], [str(label) for label in range(10)])


def _open_fashion_mnist(split: str, root: Path, download: bool) -> Split:
    prefix = "train" if split == "train" else "t10k"
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    found = [_find_idx(root, name) for name in names]
    if None in found and download:
        try:
            import_torchvision().datasets.FashionMNIST(str(root), download=True)
        except (RuntimeError, OSError) as error:
            raise LandscapeError(f"'fashion-mnist': {error}") from error
        found = [_find_idx(root, name) for name in names]
    for name, path in zip(names, found, strict=True):
        if path is None:
            raise LandscapeError(
                f"fashion-mnist: no {name}.gz (nor unpacked) in '{root}'; correct --root, or add --download to fetch it"
            )
    images, labels = (_read_idx(path) for path in found if path is not None)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise LandscapeError(f"fashion-mnist: {images.shape} images and {labels.shape} labels in '{root}' do not match")
    return _in_memory(images[:, None], labels, _FASHION_CLASSES)


def _find_idx(root: Path, name: str) -> Path | None:
    # The second folder is where torchvision puts what it downloads.
    for folder in (root, root / "FashionMNIST" / "raw"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read unsigned bytes in the idx format: 0, 0, 8, number of axes, big-endian sizes, then the values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise LandscapeError(f"cannot read '{path}': {error}") from error
    num_axes = content[3] if content[:3] == b"\x00\x00\x08" and len(content) > 3 else 0
    start = 4 + 4 * num_axes
    if num_axes == 0 or len(content) < start:
        raise LandscapeError(f"'{path}' is not an idx file of unsigned bytes; fetch it again")
    shape = tuple(np.frombuffer(content, dtype=">u4", count=num_axes, offset=4).tolist())
    if len(content) - start != int(np.prod(shape)):
        raise LandscapeError(f"'{path}' should hold {shape} bytes but has {len(content) - start}; fetch it again")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def _open_cifar(spec: str, split: str, root: Path, download: bool) -> Split:
    dataset_class = getattr(import_torchvision().datasets, spec.upper())
    if not (root / dataset_class.base_folder).is_dir() and not download:
        raise LandscapeError(
            f"'{spec}': no '{dataset_class.base_folder}' in '{root}'; correct --root, or add --download to fetch it"
        )
    try:
        dataset = dataset_class(str(root), train=split == "train", download=download)
    except (RuntimeError, OSError) as error:
        reason = str(error) if download else f"files in '{root}' are missing or damaged; --download fetches them"
        raise LandscapeError(f"'{spec}': {reason}") from error
    return _in_memory(dataset.data.transpose(0, 3, 1, 2), np.asarray(dataset.targets), dataset.classes)


def _open_folder(spec: str, split: str, root: str | os.PathLike[str] | None, image_size: int | None) -> Split:
    text = spec.removeprefix("folder:")
    if not text:
        raise LandscapeError(
            "'folder:' names no folder: write folder:PATH, with PATH/train/<class>/ and PATH/test/<class>/"
        )
    base = Path(root or "").expanduser() / Path(text).expanduser()
    if not base.is_dir():
        raise LandscapeError(f"'{spec}': no folder '{base}'")
    classes = {name: _class_folders(base, name) for name in ("train", "test")}
    only = {
        name: sorted(set(classes[name]) - set(classes[other])) for name, other in (("train", "test"), ("test", "train"))
    }
    for name, extra in only.items():
        if extra:
            other = "test" if name == "train" else "train"
            raise LandscapeError(
                f"'{spec}': class '{extra[0]}' is in {name}/ but not in {other}/; both need the same classes"
            )
    names = classes[split]
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        with os.scandir(base / split / name) as entries:
            files = sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
        if not files:
            raise LandscapeError(f"'{spec}': class '{name}' has no images in '{base / split / name}'")
        paths.extend(base / split / name / file for file in files)
        labels.extend([label] * len(files))
    return Split(
        labels=torch.tensor(labels, dtype=torch.int64),
        class_names=names,
        decode=lambda positions: _decode_files([paths[position] for position in positions], image_size),
    )


def _class_folders(base: Path, split: str) -> tuple[str, ...]:
    folder = base / split
    if not folder.is_dir():
        raise LandscapeError(f"no {split}/ folder in '{base}': expected '{folder}/<class>/<image>'")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise LandscapeError(f"no classes in '{folder}': expected one folder of images a class")
    return tuple(names)


def _decode_files(paths: Sequence[Path], image_size: int | None) -> Tensor:
    """Decode files to one tensor (n, 3, H, W) uint8."""
    if not paths:
        size = image_size or 0
        return torch.empty((0, 3, size, size), dtype=torch.uint8)
    first = _decode_file(paths[0], image_size)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)

    def decode_into(position: int) -> bool:
        image = _decode_file(paths[position], image_size)
        fits = image.shape == first.shape
        if fits:
            images[position] = image
        return fits

    # Threads, not processes: the decoders release the interpreter lock, and the pixels land where they are wanted.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        all_fit = all(pool.map(decode_into, range(len(paths))))
    if not all_fit:
        raise LandscapeError(_odd_size(paths))
    return torch.from_numpy(images)


def _decode_file(path: Path, image_size: int | None) -> NDArray[np.uint8]:
    """One file as RGB bytes of shape (3, H, W)."""
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise LandscapeError(f"cannot decode image '{path}': remove or replace it") from error
    if image_size is not None:
        image = _resize_and_crop(image, image_size)
    return np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to ``size``, bilinear, then the central ``size``×``size`` square."""
    width, height = image.size
    shorter = min(width, height)
    width, height = int(size * width / shorter), int(size * height / shorter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def _odd_size(paths: Sequence[Path]) -> str:
    """Say which file differs from the size that most files have; sizes come from the headers alone."""
    sizes = []
    for path in paths:
        with Image.open(path) as file:
            sizes.append(file.size)
    usual = Counter(sizes).most_common(1)[0][0]
    odd = next(position for position, size in enumerate(sizes) if size != usual)
    (odd_width, odd_height), (width, height) = sizes[odd], usual
    return (
        f"images must have one size: '{paths[odd]}' is {odd_width}×{odd_height}, most are {width}×{height}; "
        f"--image-size {min(usual)} resizes and crops them all"
    )
