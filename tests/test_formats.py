"""The table of formats: every row is there, every real file is told for what it is, and nothing raises by surprise."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.io import write_map, write_stack
from cryoflow.io.formats import FORMATS, Format, detect, find_format, open_data, target_format, write_data
from cryoflow.io.named import named

# what every file of the shared data is; those without a row are refused
EXPECTED = {
    "empiar-10146/micrographs/*.mrc": "mrc-stack",
    "empiar-10146/picks/*.star": "relion-coordinates",
    "micrographs/fei-extended.mrc": "mrc-stack",
    "micrographs/contaminated_edge.mrc": "mrc-stack",
    "micrographs/KLH.tif": "tiff",
    "models/*": None,
    "maps/*.mrc": "mrc",
    "maps/*.map": "mrc",
    "maps/multibody/*.mrc": "mrc",
    "maps/multibody/*.dat": None,
    "particles/empiar_10076_7.star": "relion-particles",
    "particles/empiar_10076_7.cs": "cryosparc-particles",
    "particles/empiar_10076_7.mrc": "mrc-stack",
    "particles/relion31*.star": "relion-particles",
    "particles/relion5.star": "relion-particles",
    "particles/sample_particles_*.star": "relion-particles",
    "particles/FinalRefinement*.star": "relion-particles",
    "particles/*.mrcs": "mrc-stack",
    "particles/parts.stk": "mrc-stack",
    "particles/*.par": "frealign",
    "metadata/betagal_refine3d/run_it016_data.star": "relion-particles",
    "metadata/betagal_refine3d/run_it016_half*_model.star": "star",
    "metadata/betagal_refine3d/run_it016_optimiser.star": "star",
    "metadata/betagal_refine3d/run_it016_sampling.star": "star",
    "metadata/*.cs": "cryosparc-particles",
    "mtf/*.star": "star",
    "README.md": None,
}


@pytest.mark.parametrize("entry", FORMATS, ids=lambda f: f.name)
def test_every_row_names_functions_that_exist(entry: Format) -> None:
    for name in (entry.sniff, entry.read, entry.write):
        if name is not None:
            assert callable(named(name))


def test_names_are_unique_and_found() -> None:
    assert len({f.name for f in FORMATS}) == len(FORMATS)
    assert find_format("mrc") in FORMATS
    with pytest.raises(ParameterError, match="relion-particles"):
        find_format("nothing")


def test_every_shared_file_is_told_for_what_it_is(data: Path) -> None:
    seen: dict[Path, str | None] = {}
    for pattern, name in EXPECTED.items():
        files = sorted(data.glob(pattern))
        assert files, pattern
        seen.update(dict.fromkeys(files, name))
    assert set(seen) == {p for p in data.rglob("*") if p.is_file()}, "a file without an expectation"
    found: dict[Path, str | None] = {}
    for file in seen:
        try:
            found[file] = detect(file).name
        except FormatError:
            found[file] = None
    assert found == seen


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000), st.sampled_from([*sorted({s for f in FORMATS for s in f.suffixes} - {".zarr"}), ""]))
def test_random_bytes_end_in_a_format_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"random{suffix}"
    path.write_bytes(content)
    try:
        assert detect(path) in FORMATS
    except CryoflowError:
        return
    try:
        open_data(path)
    except CryoflowError:
        return


def test_folders_patterns_and_nothing(tmp_path: Path) -> None:
    write_map(tmp_path / "a.mrc", np.ones((20, 20)), pixel_size=1.0)
    assert detect(tmp_path).name == "micrographs"
    assert detect(f"{tmp_path}/*.mrc").name == "micrographs"
    with pytest.raises(FormatError, match="nothing there"):
        detect(tmp_path / "none.star")
    (tmp_path / "s.zarr").mkdir()
    assert detect(tmp_path / "s.zarr").name == "cryoflow"
    (tmp_path / "x.bin").write_bytes(b"abc")
    with pytest.raises(FormatError, match=r"known format.*relion-particles, "):
        detect(tmp_path / "x.bin")
    (tmp_path / "x.mrc").write_bytes(b"abc")
    with pytest.raises(FormatError, match="by its name MRC stack of images or MRC map; found bytes b'abc'"):
        detect(tmp_path / "x.mrc")
    (tmp_path / "x.mrc").write_bytes(b"")
    with pytest.raises(FormatError, match=r"found an empty file\. Copy it again"):
        detect(tmp_path / "x.mrc")


@pytest.mark.parametrize(("array", "says"), [
    (np.array([{"uid": 1}], dtype=object), "Python objects, which are never read"),
    (np.ones((4, 4)), "an array without that field"),
])  # fmt: skip
def test_numpy_files_that_are_no_tables_are_told(tmp_path: Path, array: np.ndarray, says: str) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(FormatError, match=says):
        detect(tmp_path / "x.npy")


def test_stacks_and_maps_are_told_apart(tmp_path: Path) -> None:
    images = xr.DataArray(np.ones((5, 8, 8), "f4"), dims=("particle", "y", "x"))
    write_stack(tmp_path / "s.mrc", images, pixel_size=1.0)
    write_map(tmp_path / "m.mrc", np.ones((8, 8, 8)), pixel_size=1.0)
    write_map(tmp_path / "mask.mrc", np.ones((9, 8, 8)), pixel_size=1.0)
    assert [detect(tmp_path / n).name for n in ("s.mrc", "m.mrc", "mask.mrc")] == ["mrc-stack", "mrc", "mrc"]
    assert open_data(tmp_path / "s.mrc").image.shape == (5, 8, 8)
    assert open_data(tmp_path / "m.mrc")["map"].shape == (8, 8, 8)


def test_maps_open_with_the_options_of_their_reader(tmp_path: Path) -> None:
    volumes = np.arange(2 * 4 * 4 * 4, dtype=np.int8).reshape(8, 4, 4) - 64
    with mrcfile.new(tmp_path / "two.mrc") as file:
        file.set_data(volumes.reshape(2, 4, 4, 4))
        file.voxel_size = 2.0
    second = open_data(tmp_path / "two.mrc", format="mrc", volume=1, signed=True)
    np.testing.assert_array_equal(second["map"], volumes[4:])
    first = open_data(tmp_path / "two.mrc", format="mrc", volume=0, signed=False)
    np.testing.assert_array_equal(first["map"], volumes[:4].view(np.uint8))


def test_options_that_a_format_does_not_take_are_named(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", np.ones((8, 8, 8)), pixel_size=1.0)
    with pytest.raises(ParameterError, match=r"found voltage"):
        open_data(tmp_path / "m.mrc", voltage=300)
    with pytest.raises(ParameterError, match=r"found dtype"):
        write_data(open_data(tmp_path / "m.mrc"), tmp_path / "n.mrc", dtype="f4")


def test_the_target_follows_suffix_and_content() -> None:
    particles = xr.Dataset({"image_name": ("particle", ["a"]), "coordinate": (("particle", "xy"), [[1.0, 2.0]])})
    names = {".star": "relion-particles", ".cs": "cryosparc-particles", ".par": "frealign", ".xmd": "xmipp"}
    assert {s: target_format(particles, Path(f"a{s}")).name for s in names} == names
    picks = particles.drop_vars("image_name")
    names = {".star": "relion-coordinates", ".box": "eman-box", ".cbox": "cbox", ".json": "eman-info"}
    assert {s: target_format(picks, Path(f"a{s}")).name for s in names} == names
    images = xr.Dataset({"image": (("particle", "y", "x"), np.ones((1, 2, 2)))})
    assert target_format(images, Path("a.mrcs")).name == "mrc-stack"
    assert target_format(images, Path("a.json")).name == "references"
    assert target_format(xr.Dataset({"map": (("z", "y", "x"), np.ones((2, 2, 2)))}), Path("a.mrc")).name == "mrc"
    with pytest.raises(ParameterError, match="suffix"):
        target_format(images, Path("a.txt"))
