"""Checkpoints: ours come back as they were, anybody's are read without running their code, broken ones are named."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.runs import assert_same_tensors, tiny_recipe
from torch import Tensor, nn

from landscape.errors import LandscapeError
from landscape.models import build_model
from landscape.training import CheckpointInfo, load_checkpoint, load_state, save_checkpoint
from landscape.training.checkpoint import find_checkpoint, fit_state, model_from_factory, read_info

RECIPE = tiny_recipe(loss={"name": "ldam", "reweight": "drw"}).resolved


def info(**changes: Any) -> CheckpointInfo:
    values: dict[str, Any] = {
        "recipe": RECIPE.dump(),
        "epoch": 3,
        "class_names": [str(c) for c in range(10)],
        "class_counts": [122, 94, 73, 56, 43, 33, 26, 20, 15, 12],
        "in_channels": 1,
        "image_size": 8,
        "metrics": {"accuracy": 0.25},
    }
    return CheckpointInfo(**{**values, **changes})


def network(seed: int = 0) -> nn.Module:
    return build_model("mlp", num_classes=10, in_channels=1, image_size=8, head="cosine", seed=seed)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "last.safetensors"
    save_checkpoint(path, network(), info())
    return path


def test_weights_and_metadata_come_back(saved: Path) -> None:
    loaded = load_checkpoint(saved.parent)
    assert loaded.path == saved
    assert loaded.recipe == RECIPE
    assert loaded.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    for field in ("epoch", "class_names", "class_counts", "in_channels", "image_size", "metrics", "recipe"):
        assert getattr(loaded.info, field) == getattr(info(), field)
    assert set(loaded.info.versions) == {"landscape", "torch"}
    model = loaded.build_model()
    assert not model.training
    assert_same_tensors(dict(model.state_dict()), dict(network().state_dict()))
    assert read_info(saved) == loaded.info


def test_buffers_of_every_dtype_come_back(tmp_path: Path) -> None:
    model = build_model("convnet", num_classes=10, in_channels=1, seed=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()(torch.randn(8, 1, 8, 8))
    save_checkpoint(tmp_path / "m.safetensors", model, info())
    state = load_state(tmp_path / "m.safetensors")
    assert_same_tensors(dict(sorted(state.items())), dict(sorted(model.state_dict().items())))
    assert state["bn1.num_batches_tracked"].item() == 1


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("row", self.first.weight.detach()[1])
        self.register_buffer("rest", self.first.weight.detach()[1:])


def test_tied_weights_and_views_are_saved_under_every_name(tmp_path: Path) -> None:
    model = Tied()
    save_checkpoint(tmp_path / "tied.safetensors", model, info())
    state = load_state(tmp_path / "tied.safetensors")
    assert_same_tensors(dict(sorted(state.items())), dict(sorted(model.state_dict().items())))
    other = Tied()
    fit_state(other, state, tmp_path)
    assert torch.equal(other.first.weight, model.first.weight)


def test_a_save_that_dies_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def half(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, network(1), info())
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["last.safetensors"]


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    # The library writes the metadata in a random order; ten files would hardly agree by luck.
    for number in range(10):
        save_checkpoint(tmp_path / f"{number}.safetensors", network(), info())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


# ---------------------------------------------------------------------- broken


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    for read in (load_checkpoint, load_state):
        with pytest.raises(LandscapeError, match="truncated") as caught:
            read(saved)
        assert str(saved) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_torch_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "net.pt"
    torch.save(network().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(LandscapeError, match="truncated or not a checkpoint") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 100


@pytest.mark.parametrize("content", [b"hello\n", b"\x89PNG\r\n\x1a\n", b"{}", b"\x00" * 100])
def test_noise_is_not_mistaken_for_pickled_objects(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    for allow in (False, True):
        with pytest.raises(LandscapeError, match="not a checkpoint") as caught:
            load_state(path, allow_pickle=allow)
        assert "--allow-pickle" not in str(caught.value)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"no checkpoint at .*gone"):
        load_checkpoint(tmp_path / "gone")
    with pytest.raises(LandscapeError, match=r"holds no last\.safetensors"):
        find_checkpoint(tmp_path)


def test_a_newer_format_is_refused(saved: Path) -> None:
    stamped = {"format": 2, "versions": {"landscape": "9.0"}, "surprise": 1}
    save_file({"w": torch.zeros(1)}, str(saved), metadata={"landscape": json.dumps(stamped)})
    with pytest.raises(LandscapeError, match=r"newer landscape.*9\.0.*upgrade"):
        load_checkpoint(saved)


def test_a_foreign_file_needs_its_model_named(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, str(tmp_path / "w.safetensors"))
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pt")
    assert read_info(tmp_path / "w.safetensors") is None
    for name in ("w.safetensors", "w.pt"):
        with pytest.raises(LandscapeError, match=r"--model package\.module:factory --data"):
            load_checkpoint(tmp_path / name)


# ---------------------------------------------------------------------- another architecture


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "x"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {**before, "fc2.weight": torch.zeros(3, 3), "extra.weight": torch.zeros(1)}
    del state["fc1.bias"]
    with pytest.raises(LandscapeError) as caught:
        fit_state(model, state, path)
    message = str(caught.value)
    for words in (str(path), "missing: fc1.bias", "not in the model: extra.weight", "fc2.weight is (3, 3)", "(64, 64)"):
        assert words in message
    assert "\n" not in message
    assert_same_tensors(dict(model.state_dict()), before)


def test_many_wrong_keys_are_counted(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="and 3 more"):
        fit_state(nn.Module(), {f"w{i}": torch.zeros(1) for i in range(7)}, tmp_path)


def test_batch_counters_may_be_missing(tmp_path: Path) -> None:
    model = build_model("convnet", num_classes=10, in_channels=1)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    fit_state(model, state, tmp_path)


# ---------------------------------------------------------------------- foreign

WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda s: {"model_state_dict": s},
    "model": lambda s: {"model": s, "args": ["x"]},
    "net": lambda s: {"net": s, "acc": 93.1},
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled in DataParallel": lambda s: {"net": {f"module._orig_mod.{k}": v for k, v in s.items()}},
    "DataParallel in compiled": lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    "with other entries": lambda s: {**s, "epoch": 4},
}


@pytest.mark.parametrize("form", WRAPPED)
@pytest.mark.parametrize("legacy", [False, True])
def test_foreign_forms_are_all_read(tmp_path: Path, form: str, legacy: bool) -> None:
    state = dict(network().state_dict())
    torch.save(WRAPPED[form](state), tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    assert_same_tensors(load_state(tmp_path / "net.pth"), state)


def test_a_parameter_called_net_is_not_a_wrapper(tmp_path: Path) -> None:
    state = {"net": torch.ones(2), "model": torch.zeros(3)}
    torch.save(state, tmp_path / "net.pt")
    assert_same_tensors(load_state(tmp_path / "net.pt"), state)


def test_a_prefix_that_only_some_names_carry_stays(tmp_path: Path) -> None:
    state = {"module.weight": torch.ones(2), "head.weight": torch.zeros(3)}
    torch.save(state, tmp_path / "net.pt")
    assert list(load_state(tmp_path / "net.pt")) == list(state)


@pytest.mark.parametrize("content", [{"epoch": 3, "lr": 0.1}, [1, 2], torch.zeros(3), {}])
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(LandscapeError, match="holds no state dict") as caught:
        load_state(tmp_path / "net.pt")
    if isinstance(content, dict) and content:
        assert "epoch, lr" in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: {"model": m, "epoch": 1}, lambda m: {"state_dict": m}])
def test_a_pickled_module_needs_permission(tmp_path: Path, wrap: Callable[[nn.Module], Any]) -> None:
    torch.save(wrap(network()), tmp_path / "net.pt")
    with pytest.raises(LandscapeError, match=r"Python objects.*--allow-pickle") as caught:
        load_state(tmp_path / "net.pt")
    assert "\n" not in str(caught.value)
    assert_same_tensors(load_state(tmp_path / "net.pt", allow_pickle=True), dict(network().state_dict()))


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_no_code_of_a_file_runs_without_permission(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "trap": Trap(sprung)}, tmp_path / "trap.pt")
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap(sprung)))
    for name in ("trap.pt", "trap.pkl"):
        with pytest.raises(LandscapeError):
            load_state(tmp_path / name)
    assert not sprung.exists()
    assert list(load_state(tmp_path / "trap.pt", allow_pickle=True)) == ["w"]
    assert sprung.exists()


def test_pickled_code_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pickled_by_them.py").write_text("import torch\nclass Net(torch.nn.Linear):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import pickled_by_them  # type: ignore[import-not-found]

    torch.save(pickled_by_them.Net(2, 2), tmp_path / "net.pt")
    monkeypatch.delitem(__import__("sys").modules, "pickled_by_them")
    (tmp_path / "pickled_by_them.py").write_text("")
    with pytest.raises(LandscapeError, match=r"whose code is not here.*Net"):
        load_state(tmp_path / "net.pt", allow_pickle=True)


# ---------------------------------------------------------------------- factories


def test_factories_that_do_not_make_a_module_are_refused() -> None:
    assert isinstance(model_from_factory("torch.nn:Identity"), nn.Identity)
    with pytest.raises(LandscapeError, match=r"'torch\.nn:Linear' is called without arguments.*in_features"):
        model_from_factory("torch.nn:Linear")
    with pytest.raises(LandscapeError, match=r"returned a dict, not a torch\.nn\.Module"):
        model_from_factory("builtins:dict")
