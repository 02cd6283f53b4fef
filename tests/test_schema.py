"""The registry of variables holds together, and ``validate`` stops what breaks it."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from cryoflow.errors import SchemaError
from cryoflow.schema import VARIABLES, describe, require, validate


def test_labels_are_unique_and_every_variable_is_described() -> None:
    for kind in ("star", "cs"):
        labels = [getattr(v, kind) for v in VARIABLES.values() if getattr(v, kind)]
        assert len(labels) == len(set(labels))
    for name, variable in VARIABLES.items():
        assert name == variable.name
        assert variable.doc
        assert variable.dims
        assert set(variable.kind) <= set("fciubU")
        assert variable.star is None or variable.star.startswith("rln")


def test_a_good_dataset_passes_and_nothing_is_computed() -> None:
    def never(_: np.ndarray) -> np.ndarray:
        raise AssertionError("computed")

    image = xr.DataArray(np.zeros((2, 4, 4), "f4"), dims=("particle", "y", "x")).chunk({"particle": 1})
    image = xr.apply_ufunc(never, image, dask="parallelized", output_dtypes=[np.float32])
    ds = xr.Dataset({"image": image, "half": ("particle", [1, 2]), "x_rlnFoo": ("particle", ["a", "b"])})
    assert validate(ds) is ds
    rows = xr.Dataset({"defocus_u": ("micrograph", [1.0])})  # shared quantities, other rows
    assert validate(rows) is rows


@pytest.mark.parametrize(
    ("ds", "says"),
    [
        (xr.Dataset({"defokus": ("particle", [1.0])}), "'defokus'"),
        (xr.Dataset({"defocus_u": ("particle", [1])}), "dtype kind 'f'"),
        (xr.Dataset({"half": ("particle", [1.0])}), "dtype kind 'iu'"),
        (xr.Dataset({"shift": ("particle", [1.0])}), "('particle', 'xy')"),
        (xr.Dataset({"image": (("y", "x", "particle"), np.zeros((2, 2, 2)))}), "('particle', 'y', 'x')"),
        (xr.Dataset({"voltage": ("particle", [300.0])}), "('optics',)"),
    ],
)
def test_what_breaks_the_schema_is_refused(ds: xr.Dataset, says: str) -> None:
    with pytest.raises(SchemaError) as error:
        validate(ds, "here")
    assert says in str(error.value)


def test_required_and_described() -> None:
    with pytest.raises(SchemaError, match=r"image.*half") as error:
        require(xr.Dataset({"shift": (("particle", "xy"), np.zeros((1, 2)))}), "refine", ["image", "half"])
    assert "refine" in str(error.value)
    many = xr.Dataset({f"x_{i}": ((), 0.0) for i in range(30)} | {"images": ((), 0.0)})
    with pytest.raises(SchemaError, match=r"found 31 others, among them images"):
        require(many, "refine", ["image"])
    assert describe("shift").units == "angstrom"
    with pytest.raises(SchemaError, match="x_"):
        describe("nothing")
