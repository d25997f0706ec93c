"""How a problem is cut, and what a wrong cut is told."""

import pytest
import torch

from landscape.curvature import (
    class_parts,
    cross_parts,
    group_parts,
    layer_parts,
    resolve_classes,
    whole_part,
)
from landscape.curvature.parts import LayerUnit
from landscape.errors import LandscapeError
from landscape.models import build_model

NAMES = ["airplane", "automobile", "bird", "truck"]
LABELS = torch.tensor([3, 0, 1, 0, 3, 3])
PARAMETERS = [
    "scale",
    "conv1.weight",
    "bn1.weight",
    "bn1.bias",
    "layer1.0.conv.weight",
    "layer1.0.conv.bias",
    "head.weight",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", [0]),
        ("0,3", [0, 3]),
        (" 3, airplane ,1", [0, 1, 3]),
        ("truck,3,truck", [3]),
        ("bird,", [2]),
    ],
)
def test_classes_by_number_and_name(text: str, expected: list[int]) -> None:
    assert resolve_classes(text, NAMES) == expected


def test_a_name_made_of_digits_is_a_name() -> None:
    assert resolve_classes("7,9", ["9", "8", "7"]) == [0, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a,b", [2]), ("a, b", [0, 1]), ("a,b,a", [0, 2]), ("0,a,b", [0, 2]), ("a,b,b", [1, 2]), ("x, y, z,b", [1, 3])],
)
def test_a_name_may_hold_commas(text: str, expected: list[int]) -> None:
    assert resolve_classes(text, ["a", "b", "a,b", "x, y, z"]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trcuk", r"unknown class 'trcuk'; did you mean 'truck'\?"),
        ("0,zzz", r"unknown class 'zzz'; known: airplane, automobile, bird, truck"),
        ("4", "class 4 does not exist: there are 4, numbered from 0"),
        ("-1", "unknown class '-1'"),
        ("²", "unknown class '²'"),
        ("", "no class in ''; write for example 0,3,truck"),
        (" , ", "no class in ' , '"),
    ],
)
def test_wrong_classes_are_quoted(text: str, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        resolve_classes(text, NAMES)


def test_class_parts_hold_the_samples_of_their_label() -> None:
    parts = class_parts(LABELS, NAMES, [3, 0])
    assert [(p.path, p.label, p.samples.tolist()) for p in parts] == [
        ("class/3", "truck", [0, 4, 5]),
        ("class/0", "airplane", [1, 3]),
    ]
    assert all(part.parameters is None for part in parts)
    with pytest.raises(LandscapeError, match=r"class 2 \('bird'\) has no samples here"):
        class_parts(LABELS, NAMES)


def test_group_parts_leave_out_empty_groups() -> None:
    parts = group_parts(LABELS, {"head": [3], "mid": [2], "tail": [0, 1], "none": []})
    assert [(p.path, p.samples.tolist()) for p in parts] == [("group/head", [0, 4, 5]), ("group/tail", [1, 2, 3])]


def test_layers_are_modules_that_own_parameters() -> None:
    parts = layer_parts(PARAMETERS)
    assert [p.label for p in parts] == ["scale", "conv1", "bn1", "layer1.0.conv", "head"]
    assert [p.path for p in parts][2] == "layer/bn1"
    assert sum((p.parameters for p in parts), ()) == tuple(PARAMETERS)
    model = build_model("resnet20", num_classes=4)
    names = [name for name, _ in model.named_parameters()]
    assert sum((p.parameters for p in layer_parts(names)), ()) == tuple(names)


def test_layer_globs() -> None:
    def labels(*patterns: str) -> list[str]:
        return [part.label for part in layer_parts(PARAMETERS, patterns)]

    assert labels("layer1.*") == ["layer1.0.conv"]
    assert labels("head", "conv1", "*conv*") == ["conv1", "layer1.0.conv", "head"]  # module order, each once
    assert labels("bn?", "[sh]*") == ["scale", "bn1", "head"]
    for pattern, message in (
        ("cnv1", r"no layer matches 'cnv1'; did you mean 'conv1'\?"),
        ("xyz*", r"no layer matches 'xyz\*'; known: scale, conv1"),
        ("Conv1", "no layer matches 'Conv1'; did you mean 'conv1'"),
    ):
        with pytest.raises(LandscapeError, match=message):
            labels("head", pattern)


def test_cuts_compose() -> None:
    crossed = cross_parts(class_parts(LABELS, NAMES, [0, 3]), layer_parts(PARAMETERS, ["bn1", "head"]))
    assert [p.path for p in crossed] == [
        "class/0/layer/bn1",
        "class/0/layer/head",
        "class/3/layer/bn1",
        "class/3/layer/head",
    ]
    last = crossed[-1]
    assert (last.label, last.samples.tolist(), last.parameters) == ("truck · head", [0, 4, 5], ("head.weight",))
    assert (whole_part().path, whole_part().samples, whole_part().parameters) == ("all", None, None)


# ---------------------------------------------------------------------- what makes a layer


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet20", ["conv1", "bn1", "layer1", "layer2", "layer3", "head"]),
        ("resnet18", ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"]),
        ("convnet", ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "head"]),
        ("mlp", ["fc1", "fc2", "head"]),
    ],
)
def test_stages_of_the_networks_here(name: str, stages: list[str]) -> None:
    model = build_model(name, num_classes=4)
    names = [parameter for parameter, _ in model.named_parameters()]
    parts = layer_parts(names, unit="stage")
    assert [part.label for part in parts] == stages
    assert sum((part.parameters for part in parts), ()) == tuple(names)
    # Behind a wrapper the stages are the same, one level down.
    wrapped = layer_parts([f"net.{parameter}" for parameter in names], unit="stage")
    assert [part.label for part in wrapped] == [f"net.{stage}" for stage in stages]


@pytest.mark.parametrize(
    ("unit", "labels"),
    [
        ("tensor", PARAMETERS),
        ("module", ["scale", "conv1", "bn1", "layer1.0.conv", "head"]),
        ("stage", ["scale", "conv1", "bn1", "layer1", "head"]),
    ],
)
def test_every_unit_cuts_the_same_parameters(unit: LayerUnit, labels: list[str]) -> None:
    parts = layer_parts(PARAMETERS, unit=unit)
    assert [part.label for part in parts] == labels
    assert [part.path for part in parts] == [f"layer/{label}" for label in labels]
    assert sum((part.parameters for part in parts), ()) == tuple(PARAMETERS)


def test_a_single_layer_is_one_stage_and_one_module() -> None:
    names = ["body.linear.weight", "body.linear.bias"]
    for unit in ("module", "stage"):
        assert [(p.label, p.parameters) for p in layer_parts(names, unit=unit)] == [("body.linear", tuple(names))]
    assert [p.label for p in layer_parts(names, unit="tensor")] == names


def test_parameters_of_a_container_belong_to_its_stage_but_are_a_module_of_their_own() -> None:
    names = ["encoder.position", "encoder.block.weight", "head.weight"]
    module = {p.label: p.parameters for p in layer_parts(names)}
    stage = {p.label: p.parameters for p in layer_parts(names, unit="stage")}
    assert module["encoder"] == ("encoder.position",)
    assert stage["encoder"] == ("encoder.position", "encoder.block.weight")


def test_globs_speak_of_the_unit() -> None:
    assert [p.label for p in layer_parts(PARAMETERS, ["*.bias"], unit="tensor")] == ["bn1.bias", "layer1.0.conv.bias"]
    with pytest.raises(LandscapeError, match=r"no stage matches 'layer1\.\*'; did you mean 'layer1'"):
        layer_parts(PARAMETERS, ["layer1.*"], unit="stage")
    with pytest.raises(LandscapeError, match=r"no tensor matches 'bn1'"):
        layer_parts(PARAMETERS, ["bn1"], unit="tensor")
    with pytest.raises(LandscapeError, match="unit='block': a layer is a tensor, a module, a stage"):
        layer_parts(PARAMETERS, unit="block")  # type: ignore[arg-type]
