"""The protocol: counts, labels, scaling, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.anomalies import write_table

from landscape.anomaly.protocol import draw, find_tables, read_table
from landscape.errors import LandscapeError


@pytest.mark.parametrize(("labelled", "kept"), [(0.1, 14), (0.25, 35), (0.29, 41), (0.004, 1), (1.0, 140)])
def test_contamination_is_what_keeps_no_label(tmp_path: Path, labelled: float, kept: int) -> None:
    """200 anomalies in 2,000 rows, 70 % of both train; those without a label stay in training, as label 0."""
    data = draw(read_table(write_table(tmp_path / "a.npz", rows=2000, anomalies=200)), labelled=labelled, seed=3)
    assert (len(data.train), len(data.test)) == (1400, 600)
    assert int(data.test_labels.sum()) == 60
    assert int(data.labels.sum()) == kept == len(data.anomalies)
    assert data.contamination == 140 - kept
    assert len(data.unlabelled) == 1400 - kept
    assert data.prevalence == pytest.approx(0.1)


def test_labelled_rows_are_anomalies(tmp_path: Path) -> None:
    """The anomalies are told by a feature that is 1 for them and 0 otherwise, and stays so when scaled."""
    path = tmp_path / "a.npz"
    is_anomaly = (np.arange(1500) % 10 == 0).astype(int)
    np.savez(path, X=np.stack([is_anomaly, np.arange(1500.0)], 1), y=is_anomaly)
    data = draw(read_table(path), labelled=0.2, seed=1)
    assert (data.anomalies[:, 0] == 1).all()
    assert int(data.unlabelled[:, 0].sum()) == data.contamination == 105 - 21
    assert torch.equal(data.test[:, 0].long(), data.test_labels)


def test_the_range_is_that_of_the_training_rows(tmp_path: Path) -> None:
    """One row is far out. Where it trains, it is the maximum; where it does not, it lies far beyond 1."""
    path = tmp_path / "a.npz"
    values = np.random.default_rng(0).uniform(size=(1200, 2))
    values[7] = 100.0
    np.savez(path, X=values, y=(np.arange(1200) % 12 == 0).astype(int))
    table, tested = read_table(path), 0
    for seed in range(12):
        data = draw(table, labelled=0.1, seed=seed)
        assert torch.equal(data.train.amin(0), torch.zeros(2))
        assert torch.equal(data.train.amax(0), torch.ones(2))
        outside = data.test.amax()
        tested += int(outside > 2)
        assert bool(outside > 90) or bool((data.train > 0.99).all(1).any())
    assert 0 < tested < 12


def test_large_tables_are_cut_and_small_ones_filled_up(tmp_path: Path) -> None:
    large = draw(read_table(write_table(tmp_path / "l.npz", rows=12_000, anomalies=600)), labelled=0.1, seed=0)
    assert (len(large.train), len(large.test)) == (7000, 3000)
    table = read_table(write_table(tmp_path / "s.npz", rows=200, anomalies=20))
    small = draw(table, labelled=0.1, seed=0)
    assert (len(small.train), len(small.test)) == (700, 300)
    train, test = ({tuple(row) for row in rows.tolist()} for rows in (small.train, small.test))
    assert (len(train), len(test)) == (140, 60)  # every row, and none on both sides
    assert not train & test


def test_the_seed_decides_the_draw(tmp_path: Path) -> None:
    table = read_table(write_table(tmp_path / "a.npz", rows=1500, anomalies=100))
    one, again, other = (draw(table, labelled=0.1, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(one.train, again.train)
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.test, other.test)
    fewer = draw(table, labelled=0.05, seed=4)
    assert torch.equal(one.train, fewer.train)  # the share of labels does not move the split


def test_tables_of_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_table(tmp_path / "one" / f"{name}.npz")
    write_table(tmp_path / "two" / "a.npz")
    assert [path.stem for path in find_tables([tmp_path / "one"])] == ["a", "b"]
    with pytest.raises(LandscapeError, match="two data sets of one name"):
        find_tables([tmp_path / "one", tmp_path / "two" / "a.npz"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LandscapeError, match=r"holds no \.npz"):
        find_tables([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((9, 2))}, "no array 'y'"),
        ({"X": np.zeros((9, 2)), "y": np.zeros(8)}, r"X is \(9, 2\) and y \(8,\)"),
        ({"X": np.full((9, 2), np.nan), "y": np.arange(9) % 2}, "not finite"),
        ({"X": np.zeros((9, 2)), "y": np.arange(9)}, "must be 1 for an anomaly"),
        ({"X": np.zeros((9, 2)), "y": np.arange(9) // 8}, "1 anomalies in 9 rows"),
        ({"X": np.array([["a", "b"]] * 9), "y": np.arange(9) % 2}, "must hold real numbers"),
        ({"X": np.array([["a", None]] * 9), "y": np.arange(9) % 2}, "not a readable"),
        ({"X": np.full((9, 2), 1 + 1j), "y": np.arange(9) % 2}, "must hold real numbers"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(LandscapeError, match=message):
        read_table(path)


def test_files_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.save(tmp_path / "single.npy", np.zeros((9, 2)))
    whole = write_table(tmp_path / "whole.npz").read_bytes()
    for content in (b"", b"no archive", (tmp_path / "single.npy").read_bytes(), whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(LandscapeError, match=r"not a readable \.npz file"):
            read_table(path)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="no data set at"):
        read_table(tmp_path / "a.npz")
    table = read_table(write_table(tmp_path / "b.npz"))
    with pytest.raises(LandscapeError, match="above 0 and at most 1"):
        draw(table, labelled=0.0, seed=0)
