"""The torchvision door: opened plainly where it opens, with declared operators only where it does not."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def _run(code: str, first_on_path: Path | None = None) -> str:
    """Run code in a fresh interpreter, since an import can be tried only once in each."""
    insert = f"import sys; sys.path.insert(0, {str(first_on_path)!r})\n" if first_on_path else ""
    done = subprocess.run([sys.executable, "-c", insert + textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _fake_torchvision(folder: Path, source: str) -> Path:
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(textwrap.dedent(source))
    (package / "half.py").write_text("VALUE = []\n")
    return folder


def test_importing_the_packages_leaves_torchvision_alone() -> None:
    assert _run("import sys, landscape.data, landscape.models; print('torchvision' in sys.modules)") == "False"


def test_the_installed_torchvision_works_and_is_shimmed_only_if_it_must_be() -> None:
    out = _run(
        """
        try:
            import torchvision
            plain = True
        except RuntimeError:
            plain = False
        from landscape import torchvision_import as door
        tv = door.import_torchvision()
        assert door.import_torchvision() is tv
        assert len(door._declared) == (0 if plain else 1)
        print(sum(p.numel() for p in tv.models.resnet18().parameters()))
        print(tv.transforms.functional.hflip.__name__, tv.datasets.CIFAR10.base_folder)
        """
    )
    assert out.split() == ["11689512", "hflip", "cifar-10-batches-py"]


def test_a_healthy_torchvision_is_imported_without_declaring_anything(tmp_path: Path) -> None:
    _fake_torchvision(tmp_path, "MARK = 'healthy'\n")
    out = _run(
        """
        import torch
        torch.library.Library = None  # whoever declares an operator fails
        from landscape.torchvision_import import import_torchvision
        print(import_torchvision().MARK)
        """,
        first_on_path=tmp_path,
    )
    assert out == "healthy"


def test_a_missing_operator_is_declared_and_half_imported_modules_are_thrown_away(tmp_path: Path) -> None:
    _fake_torchvision(
        tmp_path,
        """
        import torch
        from torchvision import half
        half.VALUE.append(1)
        torch.library.register_fake("torchvision::nms", lambda dets, scores, iou_threshold: dets)
        """,
    )
    out = _run(
        """
        import gc
        from landscape.torchvision_import import import_torchvision
        tv = import_torchvision()
        gc.collect()
        import torch
        print(tv.half.VALUE, torch.ops.torchvision.nms.default._schema.name)
        """,
        first_on_path=tmp_path,
    )
    assert out == "[1] torchvision::nms"


@pytest.mark.parametrize("error", ["RuntimeError('out of luck')", "ModuleNotFoundError(name='PIL')"])
def test_other_failures_are_not_hidden(tmp_path: Path, error: str) -> None:
    _fake_torchvision(tmp_path, f"raise {error}\n")
    out = _run(
        """
        from landscape import torchvision_import as door
        try:
            door.import_torchvision()
        except Exception as error:
            print(type(error).__name__, len(door._declared))
        """,
        first_on_path=tmp_path,
    )
    assert out == f"{error.split('(')[0]} 0"
