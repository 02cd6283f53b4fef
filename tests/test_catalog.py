"""Entries: every field typed and checked; where their files lie; what they give a workflow, and what they ask for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import cryoflow
from cryoflow.catalog import entry_names, find_reference, is_entry_file, read_entry, search_entries
from cryoflow.catalog.layout import find_files, locate
from cryoflow.catalog.model import Entry, parse_entry
from cryoflow.catalog.start import unsaid
from cryoflow.errors import CryoflowError, FormatError, ParameterError
from cryoflow.workflow import check_files, load_workflow, parse_settings

ASKED_FOR = {
    "EMPIAR-10204", "EMPIAR-10025", "EMPIAR-10146", "EMPIAR-10017", "EMPIAR-10028", "EMPIAR-10061", "EMPIAR-10076",
    "EMPIAR-10180", "EMPIAR-10288", "EMPIAR-10499", "scipion-betagal", "demo",
}  # fmt: skip


def values(**changes: Any) -> dict[str, Any]:
    """A whole entry as a mapping, with changes at dotted names (``__`` for the dot)."""
    entry = copy.deepcopy(read_entry("EMPIAR-10028").model_dump(mode="json"))
    for name, value in changes.items():
        here: Any = entry
        *path, last = name.split("__")
        for part in path:
            here = here[part]
        here[last] = value
    return entry


def written(folder: Path, name: str, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values(**{"entry": name, **changes})))
    return path


def micrograph(path: Path, pixel_size: float = 1.34, side: int = 16) -> None:
    from cryoflow.io import write_map

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).standard_normal((side, side)).astype("f4")
    write_map(path, pixels, pixel_size=pixel_size)


# --- what comes with cryoflow ----------------------------------------------------------------------------------------


def test_every_entry_asked_for_is_there_and_whole() -> None:
    assert set(entry_names()) == ASKED_FOR
    for name in entry_names():
        entry = read_entry(name)
        assert entry.verified, f"{name} does not say where its facts come from"
        for imageset in entry.imagesets.values():  # what is said must be of the right size, or the unit is wrong
            assert imageset.voltage in {None, 200.0, 300.0}
            assert imageset.cs is None or 1 < imageset.cs < 3
            assert imageset.pixel_size is None or 0.3 < imageset.pixel_size < 4
            assert imageset.dose is None or 10 < imageset.dose < 120
        resolution = entry.specimen.published_resolution
        assert resolution is None or 1 < resolution < 10


@pytest.mark.parametrize("name", sorted(ASKED_FOR))
def test_every_entry_gives_a_workflow_or_says_why_not(name: str) -> None:
    """Those that start from movies or tilt series are refused by name; all others make a workflow that is whole."""
    entry = read_entry(name)
    kind = entry.imagesets[entry.start].kind if entry.start else "simulated"
    if kind in {"movies", "tilt-series"}:
        with pytest.raises(ParameterError, match="expected averaged micrographs, or particles with a table"):
            load_workflow(name)
        if kind == "movies":  # with micrographs of the reader's own it is whole
            facts = [f"micrographs.{k}={v}" for k, v in (("cs", 2.7), ("amplitude_contrast", 0.1))]
            w = load_workflow(name, settings=parse_settings(["micrographs.path=*.mrc", *facts]))
            assert w.stages == ("micrographs", "ctf", "pick", "extract", "refine", "postprocess", "report")
    else:
        assert load_workflow(name).stages[-3:] == ("refine", "postprocess", "report")


def test_the_pixel_size_of_the_shared_micrographs_is_the_entrys(data: Path) -> None:
    ds = cryoflow.open_catalog(root=data / "empiar-10146")["EMPIAR-10146"].read()  # held against the headers
    entry = read_entry("EMPIAR-10146").imagesets["micrographs"]
    assert ds.sizes["micrograph"] == entry.count == 20
    assert (ds.sizes["y"], ds.sizes["x"]) == entry.shape
    assert bool(ds.usable.all())


def test_the_particle_facts_of_10076_are_those_of_its_table(data: Path) -> None:
    ds = cryoflow.read_particles(data / "particles/empiar_10076_7.star", images=False)
    entry = read_entry("EMPIAR-10076").imagesets["particles"]
    for name in ("voltage", "cs", "amplitude_contrast"):
        assert getattr(entry, name) == float(ds[name].values[0])
    assert float(ds.pixel_size.values[0]) == pytest.approx(entry.pixel_size, abs=1e-4)


def test_search_finds_words_wherever_they_stand() -> None:
    assert [e.entry for e in search_entries("RIBOSOME emetine")] == ["EMPIAR-10028"]
    assert {e.entry for e in search_entries("5a1a")} >= {"EMPIAR-10061", "EMPIAR-10017"}
    assert search_entries("no such thing") == []


# --- the form --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "place", "says"),
    [
        ({"titel": "x"}, "titel", "Did you mean title?"),
        ({"imagesets__micrographs__pixelsize": 1.0}, "imagesets.micrographs.pixelsize", "Did you mean pixel_size?"),
        ({"specimen__symetry": "O"}, "specimen.symetry", "Did you mean symmetry?"),
        ({"specimen__reference__embd": 1}, "specimen.reference.embd", "Did you mean emdb?"),
        ({"imagesets__micrographs__kind": "micrograph"}, "imagesets.micrographs.kind", "'micrographs'"),
        ({"imagesets__micrographs__pixel_size": -1}, "imagesets.micrographs.pixel_size", "greater than 0"),
        ({"imagesets__micrographs__cs": "two"}, "imagesets.micrographs.cs", "'two'"),
        ({"imagesets__micrographs__directory": "../x"}, "imagesets.micrographs.directory", "below the data folder"),
        ({"imagesets__micrographs__files": "/etc/*"}, "imagesets.micrographs.files", "below the data folder"),
        ({"imagesets__particles__metadata": "https://x/p.star"}, "imagesets.particles.metadata", "below the data"),
        ({"specimen__symmetry": "Q"}, "specimen.symmetry", "pattern"),
        ({"specimen__reference__pdb": "../a"}, "specimen.reference.pdb", "pattern"),
        ({"number": 28}, "number", "10000"),
        ({"start": "movie"}, "entry", "none of the image sets"),
        ({"workflow": {"micrographs": {}}}, "workflow", "comes from the image set"),
    ],
)
def test_a_wrong_entry_is_refused_by_place(changes: dict[str, Any], place: str, says: str) -> None:
    with pytest.raises(FormatError) as error:
        parse_entry(values(**changes), "entry")
    assert place in error.value.where
    assert says in str(error.value)


def test_a_missing_key_is_asked_for() -> None:
    whole = values()
    del whole["licence"]
    with pytest.raises(FormatError, match="licence: expected a value"):
        parse_entry(whole, "x.yaml")


@pytest.mark.parametrize(
    "text", ["a: [1", "- 1", "!!python/object/apply:os.system ['true']", "\xff\xfe".encode("latin-1")]
)
def test_a_file_that_is_no_entry_is_a_format_error(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FormatError, match=r"x\.yaml|entry x"):
        read_entry("x", tmp_path)
    assert not is_entry_file(tmp_path / "x.yaml")


def test_an_entry_is_called_as_its_file(tmp_path: Path) -> None:
    path = written(tmp_path, "mine", entry="other")
    with pytest.raises(FormatError, match="the name of its file, 'mine'"):
        read_entry(path)


def test_an_entry_goes_through_its_file_unchanged(tmp_path: Path) -> None:
    for name in entry_names():
        entry = read_entry(name)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(entry.model_dump(mode="json")))
        assert read_entry(tmp_path / f"{name}.yaml") == entry


# --- where the files lie ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "10028/data/Micrographs/Micrographs_part1", "EMPIAR-10028/data/Micrographs/Micrographs_part1",
        "EMPIAR-10028/Micrographs/Micrographs_part1", "data/Micrographs/Micrographs_part1",
        "Micrographs/Micrographs_part1", "10028/data", "EMPIAR-10028", ".",
    ],
)  # fmt: skip
def test_files_are_found_as_in_the_archive_or_flat(tmp_path: Path, place: str) -> None:
    for name in ("002.mrc", "001.mrc", "001_movie.mrc", "x01.mrc"):
        micrograph(tmp_path / place / name)
    entry = read_entry("EMPIAR-10028")
    found = [Path(p) for p in find_files(entry, "micrographs", tmp_path)]
    assert [p.name for p in found] == ["001.mrc", "002.mrc"]
    assert find_files(entry, "micrographs", tmp_path, limit=1) == [str(found[0])]
    ds = cryoflow.open_catalog(root=tmp_path)["EMPIAR-10028"].read(imageset="micrographs", cs=2.0)
    assert ds.sizes["micrograph"] == 2
    assert float(ds.cs[0]) == 2.0
    facts = parse_settings(["micrographs.cs=2.0", "pick.diameter=10", "refine.diameter=200"])
    w = load_workflow("EMPIAR-10028:micrographs", settings={**facts, "refine": None, "pick": None, "extract": None})
    checked = check_files(w, root=tmp_path)
    assert checked.micrographs is not None
    assert (
        locate("Micrographs/Micrographs_part*/[0-9][0-9][0-9].mrc", tmp_path, "EMPIAR-10028")
        == checked.micrographs.path
    )


def test_a_folder_of_the_entrys_name_goes_before_others(tmp_path: Path) -> None:
    for folder in ("micrographs", "empiar-10146/micrographs"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.mrc").touch()
    assert locate("micrographs/*.mrc", tmp_path, "EMPIAR-10146") == f"{tmp_path}/empiar-10146/micrographs/*.mrc"


def test_the_archives_layout_comes_before_a_flat_one(tmp_path: Path) -> None:
    micrograph(tmp_path / "001.mrc")
    micrograph(tmp_path / "10028/data/Micrographs/Micrographs_part2/007.mrc")
    assert [Path(p).name for p in find_files(read_entry("EMPIAR-10028"), "micrographs", tmp_path)] == ["007.mrc"]


def test_what_is_not_there_is_told_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    catalog = cryoflow.open_catalog(root=tmp_path)
    with pytest.raises(ParameterError, match="cryoflow catalog fetch EMPIAR-10017 --imageset micrographs"):
        catalog["EMPIAR-10017"].read()
    with pytest.raises(ParameterError, match="an image set among micrographs, movies, particles"):
        catalog["EMPIAR-10028"].read(imageset="particle")
    with pytest.raises(ParameterError, match="cryoflow run demo"):
        catalog["demo"].read()
    with pytest.raises(ParameterError, match="the archive does not have it"):
        cryoflow.open_catalog()["EMPIAR-10146"].read()
    with pytest.raises(ParameterError, match="found tilt-series"):
        catalog["EMPIAR-10499"].read()


def test_movies_open_as_frames_and_broken_ones_are_told(tmp_path: Path) -> None:
    from cryoflow.io import write_map

    rng = np.random.default_rng(1)
    movies = rng.standard_normal((3, 5, 8, 6)).astype("f4")
    for i, movie in enumerate(movies):
        write_map(tmp_path / f"May{i}.bin.mrc", movie, pixel_size=1.5)
    (tmp_path / "May9.bin.mrc").write_bytes(b"short")
    ds = cryoflow.open_catalog(root=tmp_path)["EMPIAR-10146"].read(imageset="movies")
    assert dict(ds.movie.sizes) == {"movie": 4, "frame": 5, "y": 8, "x": 6}
    assert ds.usable.values.tolist() == [True, True, True, False]
    assert ds.reason.values[3]
    assert np.array_equal(ds.movie[:3].values, movies)
    assert np.array_equal(ds.movie[1, 2:4].values, movies[1, 2:4])


# --- what a workflow is given ----------------------------------------------------------------------------------------


def test_each_missing_fact_is_asked_for_by_name_with_its_option(tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as error:
        load_workflow("EMPIAR-10028:micrographs")
    assert error.value.remedy == "Give them: --set micrographs.cs=VALUE."
    assert list(unsaid(read_entry("EMPIAR-10288"))) == ["cs", "amplitude_contrast", "dose", "diameter"]
    bare = {f"imagesets__micrographs__{k}": None for k in ("pixel_size", "voltage", "cs", "amplitude_contrast")}
    written(tmp_path, "bare", number=None, start="micrographs", workflow={}, specimen__diameter=None,
            specimen__symmetry=None, specimen__reference=None, **bare)  # fmt: skip
    with pytest.raises(ParameterError) as error:
        load_workflow("bare", catalog=tmp_path)
    for option in ("micrographs.pixel_size", "micrographs.voltage", "micrographs.cs", "micrographs.amplitude_contrast",
                   "pick.diameter", "refine.symmetry", "refine.reference"):  # fmt: skip
        assert f"--set {option}=VALUE" in error.value.remedy
    with pytest.raises(ParameterError, match=r"pixel_size \(angstrom\), voltage \(kV\), cs \(mm\), amplitude"):
        cryoflow.open_catalog(tmp_path, root=tmp_path)["bare"].read()


def test_an_entry_without_defaults_gets_them_from_diameter_and_symmetry(tmp_path: Path) -> None:
    written(tmp_path, "bare", number=None, start="micrographs", workflow={}, specimen__diameter=None)
    given = ["micrographs.cs=2.0", "pick.diameter=250", "refine.symmetry=D2"]
    w = load_workflow("bare", catalog=tmp_path, settings=parse_settings(given))
    assert w.refine is not None
    assert w.extract is not None
    assert w.pick is not None
    assert (w.refine.symmetry, w.refine.diameter, w.refine.reference) == ("D2", 300.0, "emdb:2660")
    assert (w.pick.diameter, w.extract.box) == (250.0, 288)  # 1.5 diameters of 1.34 A, up to a multiple of 16


def test_the_readers_own_micrographs_or_particles_take_the_place_of_movies() -> None:
    w = load_workflow(
        "EMPIAR-10061", settings=parse_settings(["micrographs.path=aligned/*.mrc", "micrographs.pixel_size=0.637"])
    )
    assert w.micrographs is not None
    assert (w.micrographs.path, w.micrographs.pixel_size, w.micrographs.cs) == ("aligned/*.mrc", 0.637, 2.7)
    w = load_workflow("EMPIAR-10061", settings=parse_settings(["particles.path=p.star"]))
    assert w.stages == ("particles", "refine", "postprocess", "report")


def test_particles_start_where_the_table_lies(tmp_path: Path) -> None:
    w = load_workflow("EMPIAR-10028")
    assert w.particles is not None
    assert str(w.particles.path) == "Particles/shiny_2sets.star"
    with pytest.raises(CryoflowError, match=r"particles\.path: expected an existing file"):
        check_files(w, root=tmp_path)
    (tmp_path / "10028/data/Particles").mkdir(parents=True)
    (tmp_path / "10028/data/Particles/shiny_2sets.star").write_text("data_\n")
    w = load_workflow("EMPIAR-10028", settings=parse_settings(["refine.reference=p.mrc"]))
    micrograph(tmp_path / "p.mrc")
    with pytest.raises(CryoflowError) as error:  # found there, and empty
        check_files(w, root=tmp_path)
    assert "10028/data/Particles/shiny_2sets.star" in str(error.value)


@pytest.mark.parametrize(("reference", "says"), [("{emdb: x}", "no EMDB number"), ("{pdb: 12}", "no PDB identifier")])
def test_wrong_references_are_refused(reference: str, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        load_workflow("EMPIAR-10146", settings=parse_settings([f"refine.reference={reference}"]))


# --- references beside the data --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["set/emd_0339.map", "set/maps/EMD-0339.map", "maps/emd_0339.mrc", "models/emd_339.map"]
)
def test_maps_are_found_beside_the_data(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYOFLOW_CACHE", str(tmp_path / "cache"))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(b"")
    assert find_reference("emdb:339", tmp_path / "set") == tmp_path / place
    assert find_reference("EMD-0339", tmp_path / "set") == tmp_path / place


def test_references_that_are_nowhere_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYOFLOW_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ParameterError, match="cryoflow catalog fetch emdb:2660"):
        find_reference("emdb:2660", tmp_path)
    with pytest.raises(ParameterError, match="pdb:ID or emdb:NUMBER"):
        find_reference("../../etc/passwd", tmp_path)


def test_a_published_map_is_put_on_the_grid_of_the_particles(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map of another box and pixel size starts a refinement; its density is that of the archive's map."""
    monkeypatch.setenv("CRYOFLOW_CACHE", str(tmp_path / "cache"))
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/emd_1997.map").write_bytes((data / "maps/emd_1997.map").read_bytes())  # 100^3 of 2.02 A
    micrograph(tmp_path / "micrographs/a.mrc", pixel_size=3.0, side=128)
    given = {
        "entry": "EMPIAR-10146", "micrographs": {"pixel_size": 3.0}, "pick": {"diameter": 100}, "extract": {"box": 64},
        "refine": {"reference": {"emdb": 1997}, "diameter": 150.0, "symmetry": "C1"},
    }  # fmt: skip
    w = check_files(load_workflow(given), root=tmp_path)
    assert w.refine is not None
    reference = cryoflow.read_map(str(w.refine.reference))
    assert reference.shape == (64, 64, 64)
    assert reference.attrs["pixel_size"] == pytest.approx(3.0)
    before = cryoflow.read_map(tmp_path / "maps/emd_1997.map")
    centre = [float((v * np.indices(v.shape)[0]).sum() / v.sum() - v.shape[0] // 2) * v.attrs["pixel_size"]
              for v in (np.abs(reference), np.abs(before).assign_attrs(before.attrs))]  # fmt: skip
    assert centre[0] == pytest.approx(centre[1], abs=2.0)


def test_entries_are_plain_data() -> None:
    with pytest.raises(Exception, match="frozen"):
        read_entry("demo").title = "x"  # type: ignore[misc]
    assert isinstance(read_entry("demo"), Entry)


def test_an_unknown_name_of_the_catalog_says_which_are_near() -> None:
    with pytest.raises(ParameterError, match="Did you mean EMPIAR-10499"):
        cryoflow.open_catalog()["EMPIAR-99"]
