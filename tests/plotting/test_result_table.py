"""Tables: what is printed is what was given, the best is bold, in a figure as in a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.pages import assert_drawn_again_alike, assert_legible, drawn_texts

from landscape.errors import LandscapeError
from landscape.plotting.accuracy import class_sizes
from landscape.plotting.drawing import Drawing, compose
from landscape.plotting.style import Look
from landscape.plotting.table import result_table, table_text

# Published by Rangwani et al. 2022: all, head, mid and tail of CIFAR-10-LT and CIFAR-100-LT, imbalance 100.
ROWS = ["CE", "CE + SAM", "CE + DRW", "CE + DRW + SAM"]
NUMBERS = [
    [71.7, 90.8, 71.9, 52.3, 38.5, 64.5, 36.8, 8.2],
    [73.1, 93.3, 74.1, 51.7, 39.6, 66.6, 38.1, 8.0],
    [75.5, 91.6, 74.1, 61.4, 41.0, 61.3, 41.7, 14.7],
    [80.6, 91.4, 78.0, 73.1, 44.6, 61.2, 47.5, np.nan],
]
HEADS = ["All", "Head", "Mid", "Tail"] * 2
SPANS = [("CIFAR-10-LT (%)", 4), ("CIFAR-100-LT (%)", 4)]


def published() -> Drawing:
    return result_table(ROWS, HEADS, NUMBERS, spans=SPANS, corner="method")


def bold(drawing: Drawing) -> list[str]:
    return [text.get_text() for text in drawing.figure.axes[0].texts if text.get_fontweight() == "bold"]


def test_every_number_is_printed_and_the_best_of_a_column_is_bold() -> None:
    drawing = published()
    words = [text.get_text() for text in drawn_texts(drawing.figure)]
    for row, numbers in zip(ROWS, NUMBERS, strict=True):
        at = words.index(row)
        assert words[at + 1 : at + 9] == ["–" if np.isnan(number) else f"{number:.1f}" for number in numbers]
    assert bold(drawing) == ["93.3", "66.6", "14.7", "80.6", "78.0", "73.1", "44.6", "47.5"]


def test_least_may_be_best_and_what_is_printed_alike_is_equally_good() -> None:
    values = [[0.301, 1.0], [0.304, -2.0], [0.311, 3.0]]
    errors = [[0.01, np.nan], [0.02, 0.5], [np.nan, np.nan]]
    drawing = result_table("abc", ["λ$_{max}$", "x"], values, errors, best=["min", "none"], digits=[2, 1])
    assert bold(drawing) == ["0.30 ± 0.01", "0.30 ± 0.02"]
    words = [text.get_text() for text in drawn_texts(drawing.figure)]
    assert "−2.0 ± 0.5" in words
    assert "0.31" in words


def test_what_rounds_to_nothing_has_no_sign() -> None:
    lines = table_text(result_table(["a", "b"], ["x"], [[-0.04], [-0.06]]), "markdown").splitlines()
    assert lines[2:] == ["| a | **0.0** |", "| b | −0.1 |"]


def test_columns_are_ranged_right_below_their_heads() -> None:
    texts = drawn_texts(published().figure)
    ends: dict[str, set[float]] = {}
    for text in texts:
        if text.get_ha() == "right":
            ends.setdefault(f"{text.get_position()[0]:.4f}", set()).add(round(text.get_window_extent().x1, 3))
    assert len(ends) == 8
    assert all(len(each) == 1 for each in ends.values())
    boxes = {text.get_text(): text.get_window_extent() for text in texts}
    middle = (boxes["CIFAR-10-LT (%)"].x0 + boxes["CIFAR-10-LT (%)"].x1) / 2
    tails = [text.get_window_extent() for text in texts if text.get_text() == "Tail"]
    alls = [text.get_window_extent() for text in texts if text.get_text() == "All"]
    assert alls[0].x0 < middle < tails[0].x1 < boxes["CIFAR-100-LT (%)"].x0


def test_a_higher_panel_does_not_stretch_it() -> None:
    def line(page: Drawing) -> float:
        places = {text.get_text(): text.get_window_extent().y0 for text in drawn_texts(page.figure)}
        return places["CE + DRW"] - places["CE + DRW + SAM"]

    drawing = published()
    assert line(compose([[drawing]], heights=[4.0])) == pytest.approx(line(drawing), rel=0.03)


@pytest.mark.parametrize("column", ["single", "double"])
def test_it_is_as_wide_as_the_page(column: Any) -> None:
    drawing = published().looking(Look(column))
    ends = [text.get_window_extent() for text in drawn_texts(drawing.figure)]
    page = drawing.figure.bbox.width
    assert min(end.x0 for end in ends) < 0.02 * page
    assert max(end.x1 for end in ends) > 0.98 * page
    assert [text.get_text() for text in drawing.figure.axes[0].texts if text.get_text() in ROWS] == ROWS  # uncut


def test_markdown_has_the_same_numbers() -> None:
    lines = table_text(published(), "markdown").splitlines()
    assert lines[0].split(" | ")[1:3] == ["CIFAR-10-LT (%) All", "CIFAR-10-LT (%) Head"]
    assert lines[1] == "|---|" + "---:|" * 8
    assert lines[3] == "| CE + SAM | 73.1 | **93.3** | 74.1 | 51.7 | 39.6 | **66.6** | 38.1 | 8.0 |"
    assert lines[5].endswith("| **47.5** | – |")
    assert "a\\|b" in table_text(result_table(["a|b"], ["x"], [[1.0]]), "markdown")


def test_latex_is_a_booktabs_table_that_escapes_names() -> None:
    text = table_text(published(), "latex")
    lines = text.splitlines()
    assert lines[:2] == [r"\begin{tabular}{lrrrrrrrr}", r"\toprule"]
    assert lines[2] == r" & \multicolumn{4}{c}{CIFAR-10-LT (\%)} & \multicolumn{4}{c}{CIFAR-100-LT (\%)} \\"
    assert lines[3] == r"method & All & Head & Mid & Tail & All & Head & Mid & Tail \\"
    assert r"CE + SAM & 73.1 & \textbf{93.3} & 74.1 & 51.7 & 39.6 & \textbf{66.6} & 38.1 & 8.0 \\" in lines
    assert lines[-3].endswith(r"\textbf{47.5} & -- \\")
    odd = result_table(["a_b & $c$"], ["λ$_{max}$"], [[-1.25]], [[0.5]], digits=2)
    assert table_text(odd, "latex").splitlines()[2:5] == [
        r" & $\lambda_{max}$ \\",
        r"\midrule",
        r"a\_b \& \$c\$ & \textbf{$-$1.25 $\pm$ 0.50} \\",
    ]


def test_what_is_called_alike_is_told_apart_in_latex() -> None:
    twice = result_table(["CE", "CE"], ["All", "All"], [[1.0, np.nan], [2.0, 3.0]], sections=[("x", 1), ("x", 1)],
                         spans=[("y", 2)], corner="m_e (ρ & 50%)")  # fmt: skip
    assert table_text(twice, "latex").splitlines()[2:-2] == [
        r" & \multicolumn{2}{c}{y} \\",
        r"m\_e ($\rho$ \& 50\%) & All & All \\",
        r"\midrule",
        r"\textit{x} &  &  \\",
        r"CE & \textbf{1.0} & -- \\",
        r"\midrule",
        r"\textit{x} &  &  \\",
        r"CE & \textbf{2.0} & \textbf{3.0} \\",
    ]


def test_sections_have_heads_and_a_best_of_their_own() -> None:
    numbers = np.array(NUMBERS)
    drawing = result_table(ROWS * 2, HEADS[:4], np.concatenate([numbers[:, :4], numbers[:, 4:]]), corner="method",
                           sections=[("CIFAR-10-LT", 4), ("CIFAR-100_LT", 4)])  # fmt: skip
    words = [text.get_text() for text in drawn_texts(drawing.figure)]
    assert words[5:6] + words[26:27] == ["CIFAR-10-LT", "CIFAR-100_LT"]
    assert words[6:11] == ["CE", "71.7", "90.8", "71.9", "52.3"]
    assert words[27:32] == ["CE", "38.5", "64.5", "36.8", "8.2"]
    assert bold(drawing) == ["93.3", "80.6", "78.0", "73.1", "66.6", "14.7", "44.6", "47.5"]
    rules = [
        line
        for line in drawing.figure.axes[0].lines
        if set(line.get_xdata()) == {0, drawing.figure.axes[0].get_xlim()[1]}
    ]
    assert len(rules) == 4  # above, below the heads, between the sections, below
    markdown = table_text(drawing, "markdown").splitlines()
    assert markdown[2] == "| *CIFAR-10-LT* |  |  |  |  |"
    assert markdown[8] == "| CE | 38.5 | 64.5 | 36.8 | 8.2 |"
    latex = table_text(drawing, "latex").splitlines()
    assert latex[2:5] == [r"method & All & Head & Mid & Tail \\", r"\midrule", r"\textit{CIFAR-10-LT} &  &  &  &  \\"]
    assert latex[9:11] == [r"\midrule", r"\textit{CIFAR-100\_LT} &  &  &  &  \\"]
    assert r"CE + SAM & 39.6 & \textbf{66.6} & 38.1 & 8.0 \\" in latex
    assert_legible(drawing)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: result_table(ROWS, HEADS, [[1.0]]), r"4 rows and 8 columns needs as many values and errors"),
        (lambda: result_table([], [], np.zeros((0, 0))), "0 rows and 0 columns"),
        (lambda: result_table(["a"], ["x"], [[1.0]], best=["max", "min"]), "1 columns need a 'best'"),
        (lambda: result_table(["a"], ["x"], [[1.0]], best="most"), "max, min or none"),  # type: ignore[arg-type]
        (lambda: result_table(["a"], ["x"], [[1.0]], spans=[("y", 2)]), "heads over 2 columns do not fit"),
        (lambda: result_table(["a"], ["x"], [[1.0]], sections=[("y", 2)]), "heads over 2 rows do not fit"),
        (lambda: result_table(["a"], ["x"], [[1.0]], sections=[("y", 1), ("z", 0)]), "over one of the rows or more"),
        (lambda: result_table(["a"], ["x"], [[1.0]], spans=[("y", 2), ("z", -1)]), "over one of the columns or more"),
        (lambda: table_text(class_sizes([3, 2]), "latex"), "'class-sizes' is no table"),
        (lambda: table_text(published(), "html"), "not as 'html'"),  # type: ignore[arg-type]
        (
            lambda: result_table(["a"], ["x" * 9] * 30, [[1.0] * 30]).figure,
            "30 columns does not fit 6.81 inch",
        ),
    ],
)
def test_what_cannot_be_drawn_says_so(make: Any, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()


def test_it_is_legible_and_drawn_again_from_its_file(tmp_path: Path) -> None:
    assert_legible(published())
    assert_legible(result_table(["HTR all layers"], ["accuracy (%)", "λ$_{max}$"], [[42.9, 3.21]], [[0.3, np.nan]]))
    assert_drawn_again_alike(published(), tmp_path)
