"""Image sources: tiny files written here, read back, and compared with what was written."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from landscape.data import ImageSet, open_split, source_names
from landscape.errors import LandscapeError
from landscape.torchvision_import import import_torchvision


def _image_set() -> ImageSet:
    images = torch.arange(4 * 2 * 3, dtype=torch.uint8).view(4, 1, 2, 3)
    return ImageSet(images, torch.tensor([2, 0, 2, 2]), ("a", "b", "c"))


def _pixels(seed: int, height: int = 5, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, three training and two test images in each; pixels are those of `_pixels(seed)`."""
    seed = 0
    for split, count in (("train", 3), ("test", 2)):
        for name in ("dog", "cat"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(_pixels(seed)).save(tmp_path / split / name / f"{number}.png")
                seed += 1
    return tmp_path


# --- ImageSet


def test_image_set_counts_and_selects() -> None:
    data = _image_set()
    assert (len(data), data.num_classes, data.class_counts()) == (4, 3, (1, 0, 3))
    chosen = data.select([3, 1])
    assert torch.equal(chosen.images, data.images[[3, 1]])
    assert chosen.labels.tolist() == [2, 0]
    assert chosen.class_counts() == (1, 0, 1)


def test_fingerprint_is_sha256_of_shape_pixels_labels() -> None:
    data = _image_set()
    content = b"(4, 1, 2, 3)" + bytes(range(24)) + struct.pack("<4q", 2, 0, 2, 2)
    assert data.fingerprint() == hashlib.sha256(content).hexdigest()
    assert data.select(range(4)).fingerprint() == data.fingerprint()


def test_fingerprint_sees_pixels_labels_order_and_shape() -> None:
    data = _image_set()
    brighter = data.images.clone()
    brighter[2, 0, 1, 1] += 1
    others = [
        ImageSet(brighter, data.labels, data.class_names),
        ImageSet(data.images, torch.tensor([2, 0, 2, 1]), data.class_names),
        ImageSet(data.images.view(4, 1, 3, 2), data.labels, data.class_names),
        data.select([1, 0, 2, 3]),
        data.select([]),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 6


def test_fingerprint_does_not_depend_on_memory_order() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 5)).to(torch.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert ImageSet(strided, labels, ("a",)).fingerprint() == ImageSet(images, labels, ("a",)).fingerprint()


def test_image_set_refuses_other_shapes_and_types() -> None:
    with pytest.raises(LandscapeError, match=r"uint8.*float32"):
        ImageSet(torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), ("a",))
    with pytest.raises(LandscapeError, match=r"labels.*\(2,\)"):
        ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), ("a",))


# --- digits


def test_digits_are_all_there_once_in_a_fixed_stratified_split() -> None:
    from sklearn.datasets import load_digits

    train, test = open_split("digits", "train").load(), open_split("digits", "test").load()
    digits = load_digits()
    assert train.class_counts() == tuple(round(0.7 * count) for count in np.bincount(digits.target))
    assert train.images.shape[1:] == (1, 8, 8)
    both = torch.cat([train.images, test.images]).flatten(1)
    original = torch.from_numpy(digits.images).flatten(1)
    restored = (both.double() * 16 / 255).round()  # 17 grey levels survive the scaling
    rows = sorted(tuple(row) for row in restored.int().tolist())
    assert rows == sorted(tuple(row) for row in original.int().tolist())
    assert (both.min(), both.max()) == (0, 255)


def test_the_digits_split_never_changes() -> None:
    assert open_split("digits", "train").load().fingerprint()[:16] == "df5b804e5c12aaec"
    assert open_split("digits", "test").load().fingerprint()[:16] == "0d86109e34ce7fb1"


def test_loading_part_of_a_split_equals_selecting_from_all_of_it() -> None:
    split = open_split("digits", "test")
    index = torch.tensor([5, 2, 400])
    assert split.load(index).fingerprint() == split.load().select(index).fingerprint()
    assert torch.equal(split.load().labels, split.labels)


# --- fashion-mnist


def _write_idx(path: Path, array: np.ndarray, *, compress: bool) -> None:
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if compress:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("inside", ["", "FashionMNIST/raw"])
def test_fashion_mnist_reads_idx_files(tmp_path: Path, compress: bool, inside: str) -> None:
    rng = np.random.default_rng(0)
    written = {}
    for split, prefix, count in (("train", "train", 6), ("test", "t10k", 4)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        _write_idx(tmp_path / inside / f"{prefix}-images-idx3-ubyte", images, compress=compress)
        _write_idx(tmp_path / inside / f"{prefix}-labels-idx1-ubyte", labels, compress=compress)
        written[split] = (images, labels)
    for split, (images, labels) in written.items():
        data = open_split("fashion-mnist", split, root=tmp_path).load()
        assert np.array_equal(data.images[:, 0].numpy(), images)
        assert data.labels.tolist() == labels.tolist()
        assert data.class_names[9] == "Ankle boot"
    part = open_split("fashion-mnist", "train", root=tmp_path).load([4])
    assert np.array_equal(part.images[0, 0].numpy(), written["train"][0][4])


def test_fashion_mnist_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"train-images-idx3-ubyte\.gz.*--root.*--download"):
        open_split("fashion-mnist", "train", root=tmp_path)
    images = np.zeros((2, 28, 28), dtype=np.uint8)
    _write_idx(tmp_path / "t10k-images-idx3-ubyte", images, compress=False)
    _write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(3, dtype=np.uint8), compress=False)
    with pytest.raises(LandscapeError, match="do not match"):
        open_split("fashion-mnist", "test", root=tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LandscapeError, match=r"t10k-images.*should hold \(2, 28, 28\) bytes but has 1567"):
        open_split("fashion-mnist", "test", root=tmp_path)
    path.write_bytes(b"<html>")
    with pytest.raises(LandscapeError, match="not an idx file"):
        open_split("fashion-mnist", "test", root=tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8bhalf")
    path.unlink()
    with pytest.raises(LandscapeError, match="cannot read"):
        open_split("fashion-mnist", "test", root=tmp_path)


# --- cifar


def _write_pickle(path: Path, content: dict[str, object]) -> list[str]:
    data = pickle.dumps(content)
    path.write_bytes(data)
    return [path.name, hashlib.md5(data).hexdigest()]


def test_cifar10_keeps_file_order_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset_class = import_torchvision().datasets.CIFAR10
    base = tmp_path / dataset_class.base_folder
    base.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (5, 3072), dtype=np.uint8)
    batches = [
        _write_pickle(base / "data_batch_1", {"data": rows[:2], "labels": [1, 0]}),
        _write_pickle(base / "data_batch_2", {"data": rows[2:4], "labels": [1, 1]}),
    ]
    meta = _write_pickle(base / "batches.meta", {"label_names": ["plane", "car"]})
    monkeypatch.setattr(dataset_class, "train_list", batches)
    monkeypatch.setattr(
        dataset_class, "test_list", [_write_pickle(base / "test_batch", {"data": rows[4:], "labels": [0]})]
    )
    monkeypatch.setattr(dataset_class, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})

    split = open_split("cifar10", "train", root=tmp_path)
    assert split.labels.tolist() == [1, 0, 1, 1]
    assert split.class_names == ("plane", "car")
    # A row of the file is the red plane, then green, then blue: (3, 32, 32) in C order.
    assert np.array_equal(split.load([2, 1]).images.numpy(), rows[[2, 1]].reshape(2, 3, 32, 32))
    assert np.array_equal(
        open_split("cifar10", "test", root=tmp_path).load().images.numpy(), rows[4:].reshape(1, 3, 32, 32)
    )

    (base / "data_batch_2").write_bytes(b"damaged")
    with pytest.raises(LandscapeError, match=r"'cifar10'.*missing or damaged; --download"):
        open_split("cifar10", "train", root=tmp_path)


def test_cifar_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"'cifar100' needs the folder.*--root FOLDER"):
        open_split("cifar100", "train")
    with pytest.raises(LandscapeError, match=r"no folder '.*absent'.*--download"):
        open_split("cifar10", "train", root=tmp_path / "absent")
    with pytest.raises(LandscapeError, match=r"no 'cifar-100-python' in '.*--download"):
        open_split("cifar100", "test", root=tmp_path)


# --- folder:PATH


def test_folder_reads_classes_and_files_in_order_of_name(folder: Path) -> None:
    (folder / "train" / "cat" / ".hidden").write_text("not an image")
    split = open_split(f"folder:{folder}", "train")
    assert split.class_names == ("cat", "dog")
    assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
    seeds = [3, 4, 5, 0, 1, 2]  # dog was written first
    expected = np.stack([_pixels(seed).transpose(2, 0, 1) for seed in seeds])
    assert np.array_equal(split.load().images.numpy(), expected)
    assert np.array_equal(split.load([4, 0]).images.numpy(), expected[[4, 0]])
    assert open_split(f"folder:{folder.name}", "test", root=folder.parent).load().class_counts() == (2, 2)


def test_only_the_drawn_images_are_decoded(folder: Path) -> None:
    (folder / "train" / "cat" / "1.png").write_bytes(b"broken")
    split = open_split(f"folder:{folder}", "train")
    assert len(split.load([0, 2, 3])) == 3
    with pytest.raises(LandscapeError, match=r"cannot decode image '.*cat/1\.png'"):
        split.load()


def test_a_truncated_image_is_named(folder: Path) -> None:
    path = folder / "train" / "dog" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(LandscapeError, match=r"cannot decode image '.*dog/2\.png'"):
        open_split(f"folder:{folder}", "train").load()


def test_grey_and_palette_images_become_rgb(folder: Path) -> None:
    grey = _pixels(50)[:, :, 0]
    Image.fromarray(grey).save(folder / "train" / "cat" / "0.png")
    loaded = open_split(f"folder:{folder}", "train").load([0]).images[0]
    assert all(np.array_equal(channel.numpy(), grey) for channel in loaded)


@pytest.mark.parametrize("odd", ["0.png", "1.png"])
def test_the_odd_size_is_named_even_when_it_comes_first(folder: Path, odd: str) -> None:
    Image.fromarray(_pixels(9, height=6, width=7)).save(folder / "train" / "cat" / odd)
    with pytest.raises(LandscapeError, match=rf"cat/{odd}' is 7×6, most are 5×5; --image-size 5"):
        open_split(f"folder:{folder}", "train").load()
    images = open_split(f"folder:{folder}", "train", image_size=5).load().images
    assert images.shape == (6, 3, 5, 5)
    assert np.array_equal(
        images[2].numpy(), _pixels(5).transpose(2, 0, 1)
    )  # those of the right size are left as they are


@pytest.mark.parametrize(("height", "width"), [(20, 31), (31, 20), (9, 9), (12, 100)])
def test_resizing_agrees_with_torchvision(folder: Path, height: int, width: int) -> None:
    image = Image.fromarray(_pixels(1, height, width))
    image.save(folder / "test" / "cat" / "0.png")
    transforms = import_torchvision().transforms
    expected = transforms.Compose([transforms.Resize(12), transforms.CenterCrop(12), transforms.PILToTensor()])(image)
    loaded = open_split(f"folder:{folder}", "test", image_size=12).load([0]).images[0]
    assert torch.equal(loaded, expected)


def test_folder_errors_say_what_is_missing(folder: Path) -> None:
    with pytest.raises(LandscapeError, match=r"no folder '.*absent'"):
        open_split(f"folder:{folder}/absent", "train")
    with pytest.raises(LandscapeError, match="write folder:PATH"):
        open_split("folder:", "train")
    with pytest.raises(LandscapeError, match="--image-size 0"):
        open_split(f"folder:{folder}", "train", image_size=0)
    (folder / "test" / "emu").mkdir()
    with pytest.raises(LandscapeError, match="class 'emu' is in test/ but not in train/"):
        open_split(f"folder:{folder}", "train")
    (folder / "train" / "emu").mkdir()
    with pytest.raises(LandscapeError, match="class 'emu' has no images"):
        open_split(f"folder:{folder}", "train")
    (folder / "test").rename(folder / "val")
    with pytest.raises(LandscapeError, match="no test/ folder"):
        open_split(f"folder:{folder}", "train")
    (folder / "test").mkdir()
    with pytest.raises(LandscapeError, match=r"no classes in '.*test'"):
        open_split(f"folder:{folder}", "train")


# --- names


def test_unknown_names_get_the_nearest_and_the_list(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="'cifar-10'; did you mean 'cifar10'") as caught:
        open_split("cifar-10", "train")
    assert all(name in str(caught.value) for name in source_names())
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(LandscapeError, match=f"write 'folder:{tmp_path}'"):
        open_split(str(tmp_path), "train")
    with pytest.raises(LandscapeError, match="unknown split 'val'"):
        open_split("digits", "val")
    with pytest.raises(LandscapeError, match="--image-size 16: only folder:PATH"):
        open_split("digits", "train", image_size=16)
