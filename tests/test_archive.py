"""The archives over HTTP: entries by number, folders as pages, lazy reading, fetching, maps and models; and faults."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_server import apache, archive
from fault_server import FaultServer, at_random, once

import cryoflow
from cryoflow.catalog import fetch_emdb, fetch_pdb, find_reference, read_entry
from cryoflow.catalog.empiar import entry_from_record, fetch_entry
from cryoflow.catalog.fetch import fetch, plan_fetch
from cryoflow.catalog.listing import Item, list_folder, parse_listing
from cryoflow.errors import CryoflowError, FormatError, ParameterError, ResourceError
from cryoflow.io import read_map, write_map
from cryoflow.workflow import load_workflow, parse_settings

# the form of a record, as the archive's entry API gives it
RECORD: dict[str, Any] = {
    "title": "Cryo-EM of a made-up protein", "status": "REL", "experiment_type": "EMDB", "scale": "molecule",
    "release_date": "2021-05-04", "dataset_size": "1.2 TB", "entry_doi": "10.6019/EMPIAR-10999",
    "cross_references": ["EMD-0339"], "biostudies_references": [], "idr_references": [], "empiar_references": [],
    "corresponding_author": {"author": {"first_name": "A.", "last_name": "B."}},
    "authors": [{"author": {"name": "B A", "author_orcid": None}}],
    "citation": [{
        "authors": [{"name": f"Author {c}", "author_orcid": None} for c in "ABCD"], "published": True,
        "j_or_nj_citation": True, "title": "A made-up structure", "journal": "Journal of Tests", "volume": "7",
        "first_page": "11", "year": "2021", "doi": "doi:10.1000/made.up", "pubmedid": None,
    }],
    "imagesets": [
        {"name": "Raw movies", "directory": "/data/Movies", "category": "micrographs - multiframe",
         "header_format": "TIFF", "data_format": "TIFF", "num_images_or_tilt_series": 3, "frames_per_image": 40,
         "voxel_type": "UNSIGNED BYTE", "pixel_width": 0.415, "pixel_height": 0.415, "details": "gain in gain.mrc",
         "image_width": "11520", "image_height": "8184", "micrographs_file_pattern": None},
        {"name": "Averages", "directory": "/data/Averaged", "category": "micrographs - single frame",
         "header_format": "MRC", "data_format": "MRC", "num_images_or_tilt_series": 3, "frames_per_image": 1,
         "voxel_type": "32 BIT FLOAT", "pixel_width": 0.83, "pixel_height": 0.83, "details": "",
         "image_width": "5760", "image_height": "4092"},
        {"name": "Particles", "directory": "data/Particles", "category": "picked particles - single frame - processed",
         "header_format": "MRCS", "data_format": "MRCS", "num_images_or_tilt_series": 8, "frames_per_image": 1,
         "voxel_type": "32 BIT FLOAT", "pixel_width": "0.83", "details": None,
         "picked_particles_file_pattern": "data/Particles/shiny.star"},
        {"name": "Odd", "directory": "/data/../../etc", "category": "OTHER", "header_format": "UNKNOWN",
         "data_format": "UNKNOWN", "num_images_or_tilt_series": None, "frames_per_image": None, "pixel_width": None},
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The archive's folders: entry 10999 with micrographs and particles, its record, an EMDB map, a PDB model."""
    base = tmp_path / "archive"
    rng = np.random.default_rng(3)
    averaged = base / "files/10999/data/Averaged"
    averaged.mkdir(parents=True)
    for i in range(3):
        write_map(averaged / f"a long name of a micrograph {i}.mrc", rng.standard_normal((24, 20)).astype("f4"),
                  pixel_size=0.83)  # fmt: skip
    particles = base / "files/10999/data/Particles/part one"
    particles.mkdir(parents=True)
    stack = rng.standard_normal((8, 12, 12)).astype("f4")
    write_map(particles / "p.mrcs", stack, pixel_size=0.83)
    (particles.parent / "shiny.star").write_text(
        "data_\nloop_\n_rlnImageName\n_rlnDefocusU\n_rlnDefocusV\n_rlnDefocusAngle\n_rlnVoltage\n"
        "_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnPixelSize\n"
        + "".join(f'"{i + 1}@part one/p.mrcs" 15000 14000 10 300 2.7 0.1 0.83\n' for i in range(8))
    )  # fmt: skip
    record = base / "api/10999"
    record.mkdir(parents=True)
    (record / "index.json").write_text(json.dumps({"EMPIAR-10999": RECORD}))
    write_map(tmp_path / "m.map", rng.standard_normal((10, 10, 10)).astype("f4"), pixel_size=1.1)
    emdb = base / "emdb/EMD-0339/map"
    emdb.mkdir(parents=True)
    (emdb / "emd_0339.map.gz").write_bytes(gzip.compress((tmp_path / "m.map").read_bytes()))
    (base / "pdb").mkdir()
    (base / "pdb/6n4b.cif").write_text("data_6N4B\n#\n")
    return base


@pytest.fixture
def serve(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FaultServer]]:
    """Start the archive and point the environment at it; short time-outs."""
    running: list[Any] = []
    monkeypatch.setenv("CRYOFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CRYOFLOW_TIMEOUT", "1")

    def start(*fault: Any) -> FaultServer:
        context = archive(folder, *fault)
        server = context.__enter__()
        running.append(context)
        for name, place in (("EMPIAR_API", "api"), ("EMPIAR_DATA", "files"), ("EMDB", "emdb"), ("PDB", "pdb")):
            monkeypatch.setenv(f"CRYOFLOW_{name}", f"{server.url}/{place}")
        return server

    yield start
    for context in running:
        context.__exit__(None, None, None)


# --- folders as pages ------------------------------------------------------------------------------------------------

NGINX = """<html><head><title>Index of /data/</title></head><body><h1>Index of /data/</h1><hr><pre><a href="../">../</a>
<a href="sub/">sub/</a>                            04-May-2021 10:11                   -
<a href="a%20%26b%231.mrc">a &amp;b#1.mrc</a>      04-May-2021 10:11            67109888
</pre><hr></body></html>"""
EVIL = """<a href="https://elsewhere/x.mrc">x</a><a href="/other/x.mrc">x</a><a href="..%2fup.mrc">x</a>
<a href="%2e%2e/">x</a><a href="deep/er.mrc">x</a><a href="javascript:alert(1)">x</a><a href="http://[bad">x</a>
<a href="a%00b">x</a><a>x</a><a href="">x</a><a href="ok.mrc?C=N">x</a><a href="ok.mrc">x</a>
<a href="ok.mrc">again</a>"""


def test_names_come_from_links_alone(tmp_path: Path) -> None:
    assert parse_listing(NGINX, "http://h/data/") == [Item("sub", True), Item("a &b#1.mrc", False, 67109888)]
    assert [item.name for item in parse_listing(EVIL, "http://h/data/")] == ["ok.mrc"]
    assert parse_listing("no page at all", "http://h/data/") == []
    (tmp_path / "b c").mkdir()
    (tmp_path / "a very long name that the page cuts off.mrc").write_bytes(bytes(1536))
    items = parse_listing(apache(tmp_path, "/x/y/"), "http://h/x/y/")
    assert items == [Item("a very long name that the page cuts off.mrc", False, 1536), Item("b c", True)]


def test_a_folder_is_listed_over_http(serve: Callable[..., FaultServer]) -> None:
    server = serve()
    names = [i.name for i in list_folder(f"{server.url}/files/10999/data")]
    assert names == ["Averaged", "Particles"]
    with pytest.raises(FormatError, match="nothing there"):
        list_folder(f"{server.url}/files/10998/data")


# --- entries by number -----------------------------------------------------------------------------------------------


def test_a_record_becomes_an_entry() -> None:
    entry = entry_from_record(RECORD, 10999)
    assert list(entry.imagesets) == ["movies", "micrographs", "particles", "other"]
    movies, micrographs, particles, other = entry.imagesets.values()
    assert (movies.kind, movies.format, movies.frames, movies.shape) == ("movies", "tiff", 40, (8184, 11520))
    assert (micrographs.pixel_size, micrographs.directory, micrographs.count) == (0.83, "Averaged", 3)
    assert (particles.pixel_size, particles.metadata) == (0.83, "Particles/shiny.star")
    assert other.directory == ""  # one that leads outside is dropped
    assert entry.start == "micrographs"
    assert entry.specimen.reference is not None
    assert entry.specimen.reference.emdb == 339
    assert entry.citation.startswith(
        "Author A, Author B, Author C et al. (2021). A made-up structure. Journal of Tests 7"
    )
    for imageset in entry.imagesets.values():  # nothing is guessed
        assert (imageset.voltage, imageset.cs, imageset.amplitude_contrast, imageset.dose) == (None,) * 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "<html>sorry</html>",
        '{"EMPIAR-10998": {}}',
        '{"EMPIAR-10999": {"imagesets": 3}}',
        "[" * 9999,
    ],
)
def test_a_record_that_is_none_is_a_format_error(serve: Callable[..., FaultServer], folder: Path, text: str) -> None:
    serve()
    (folder / "api/10999/index.json").write_text(text)
    with pytest.raises(FormatError, match=r"api/10999/"):
        fetch_entry(10999)


@pytest.mark.parametrize(
    "junk", [None, 3, "x", [], [3], [{"category": []}], [{"directory": {}, "pixel_width": "wide"}]]
)
def test_a_record_of_junk_does_no_harm(junk: Any) -> None:
    record = {
        **RECORD,
        "title": junk,
        "citation": junk,
        "cross_references": junk,
        "imagesets": junk if isinstance(junk, list) else [],
    }
    entry = entry_from_record(record, 10999)
    assert entry.number == 10999


def test_any_number_is_read_from_the_archive_once(serve: Callable[..., FaultServer]) -> None:
    server = serve()
    assert read_entry("10999") == read_entry("EMPIAR-10999")
    assert [path for path, _ in server.requests] == ["/api/10999/"]
    assert fetch_entry(10999, refresh=True) == read_entry("10999")
    assert len(server.requests) == 2
    with pytest.raises(ParameterError, match=r"10998, which http.* does not have"):
        read_entry("EMPIAR-10998")


def test_what_the_archive_does_not_say_is_asked_for_before_anything_starts(serve: Callable[..., FaultServer]) -> None:
    serve()
    with pytest.raises(ParameterError) as error:
        load_workflow("10999")
    for option in (
        "micrographs.voltage",
        "micrographs.cs",
        "micrographs.amplitude_contrast",
        "pick.diameter",
        "refine.symmetry",
    ):
        assert f"--set {option}=VALUE" in str(error.value)
    assert "micrographs.pixel_size=VALUE" not in str(error.value)  # that the record says
    given = ["micrographs.voltage=300", "micrographs.cs=2.7", "micrographs.amplitude_contrast=0.1", "pick.diameter=80",
             "refine.symmetry=C1"]  # fmt: skip
    w = load_workflow("10999", settings=parse_settings(given))
    assert w.entry == "EMPIAR-10999"
    assert w.refine is not None
    assert w.refine.reference == "emdb:339"


# --- lazily, where it lies -------------------------------------------------------------------------------------------


def test_micrographs_and_particles_are_read_lazily_from_the_archive(
    serve: Callable[..., FaultServer], folder: Path
) -> None:
    server = serve()
    optics = {"voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.1}
    reader = cryoflow.open_catalog()["EMPIAR-10999"]
    ds = reader.read(limit=2, **optics)
    assert dict(ds.micrograph.sizes) == {"micrograph": 2, "y": 24, "x": 20}
    before = len(server.requests)
    kept = read_map(folder / "files/10999/data/Averaged/a long name of a micrograph 1.mrc")
    assert np.array_equal(ds.micrograph[1].values, kept[0] if kept.ndim == 3 else kept)
    assert len(server.requests) - before <= 1
    particles = reader.read(imageset="particles")
    stack = read_map(folder / "files/10999/data/Particles/part one/p.mrcs")
    assert np.array_equal(particles.image.values, stack)
    with pytest.raises(ParameterError, match=r"voltage \(kV\), cs \(mm\), amplitude_contrast"):
        reader.read()


@pytest.mark.parametrize("place", ["files", "files/10999/data", "files/10999"])
def test_a_mirror_may_have_the_archives_layout_or_the_entrys_folder(
    serve: Callable[..., FaultServer], place: str
) -> None:
    server = serve()
    ds = cryoflow.open_catalog(root=f"{server.url}/{place}")["10999"].read(imageset="particles")
    assert ds.sizes["particle"] == 8


# --- fetching --------------------------------------------------------------------------------------------------------


def test_a_fetch_tells_its_size_and_lays_files_as_in_the_archive(
    serve: Callable[..., FaultServer], folder: Path, tmp_path: Path
) -> None:
    server = serve()
    entry = read_entry("10999")
    plan = plan_fetch(entry, ["micrographs", "particles"], root=tmp_path / "here")
    sizes = sum(f.stat().st_size for f in (folder / "files/10999/data").rglob("*.*") if f.is_file())
    assert plan.bytes == pytest.approx(sizes, rel=0.1)
    assert "5 files, about" in str(plan)
    told: list[tuple[int, int | None]] = []
    paths = fetch(plan, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (sizes, sizes)
    for path in paths:
        archived = folder / "files/10999/data" / path.relative_to(tmp_path / "here/10999/data")
        assert path.read_bytes() == archived.read_bytes()
    again = plan_fetch(entry, ["micrographs", "particles"], root=tmp_path / "here")
    assert (again.todo, again.there) == ((), 5)
    ds = cryoflow.open_catalog(root=tmp_path / "here")["10999"].read(imageset="particles")
    server.shutdown()  # what was fetched needs no server
    assert ds.image.shape == (8, 12, 12)
    assert np.isfinite(ds.image.values).all()


def test_a_full_disk_is_told_before_anything_is_fetched(
    serve: Callable[..., FaultServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    plan = plan_fetch(read_entry("10999"), ["micrographs"], root=tmp_path)
    before = len(server.requests)
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((1, 1)) and type("U", (), {"free": 10})())
    with pytest.raises(ResourceError, match="of free disk"):
        fetch(plan)
    assert len(server.requests) == before


def test_limits_and_wrong_names(serve: Callable[..., FaultServer], tmp_path: Path) -> None:
    serve()
    entry = read_entry("10999")
    assert len(plan_fetch(entry, ["micrographs"], root=tmp_path, limit=2).todo) == 2
    with pytest.raises(ParameterError, match="an image set among movies, micrographs, particles, other"):
        plan_fetch(entry, ["micrograph"], root=tmp_path)
    with pytest.raises(ParameterError, match="files Movies/"):  # the record promises more than there is
        plan_fetch(entry, ["movies"], root=tmp_path)
    with pytest.raises(ParameterError, match="made here"):
        plan_fetch(read_entry("EMPIAR-10146"), ["micrographs"], root=tmp_path)
    with pytest.raises(ParameterError, match="it is simulated"):
        plan_fetch(read_entry("demo"), root=tmp_path)


@pytest.mark.parametrize("fault", ["stall", "cut", "reset", "503", "429", "500"])
def test_a_page_or_record_that_fails_once_is_asked_for_again(serve: Callable[..., FaultServer], fault: str) -> None:
    server = serve(once(fault))
    assert read_entry("10999").title == RECORD["title"]
    assert server.done[fault] == 1


def test_a_refusal_ends_at_once_and_an_outage_in_the_end(serve: Callable[..., FaultServer]) -> None:
    server = serve(lambda *_: "403")
    with pytest.raises(ResourceError, match="HTTP status 403"):
        read_entry("10999")
    assert len(server.requests) == 1
    server.fault = lambda *_: "503"
    with pytest.raises(ResourceError, match="HTTP status 503"):
        read_entry("10999")


def test_a_fetch_from_a_server_of_many_faults_ends_whole(
    serve: Callable[..., FaultServer], folder: Path, tmp_path: Path
) -> None:
    server = serve()
    plan = plan_fetch(read_entry("10999"), ["micrographs", "particles"], root=tmp_path / "here")
    server.fault = at_random(0.3, ("cut", "reset", "503", "range", "size", "stall"), seed=5)
    for path in fetch(plan):
        archived = folder / "files/10999/data" / path.relative_to(tmp_path / "here/10999/data")
        assert path.read_bytes() == archived.read_bytes()


def test_a_file_that_cannot_be_had_is_named_and_stops_no_other(
    serve: Callable[..., FaultServer], tmp_path: Path
) -> None:
    server = serve()
    plan = plan_fetch(read_entry("10999"), ["micrographs"], root=tmp_path / "here")
    server.fault = lambda _, path: "403" if path.endswith("1.mrc") else ""
    with pytest.raises(CryoflowError, match=r"micrograph%201\.mrc"):
        fetch(plan)
    assert len(list((tmp_path / "here").rglob("*.mrc"))) == 2
    server.fault = lambda *_: ""
    again = plan_fetch(read_entry("10999"), ["micrographs"], root=tmp_path / "here")
    assert len(again.todo) == 1
    fetch(again)
    assert len(list((tmp_path / "here").rglob("*.mrc"))) == 3


# --- maps and models by number ---------------------------------------------------------------------------------------


def test_maps_and_models_are_fetched_once(serve: Callable[..., FaultServer], tmp_path: Path) -> None:
    server = serve()
    path = fetch_emdb(339)
    assert path.read_bytes() == (tmp_path / "m.map").read_bytes()
    assert read_map(path).attrs["pixel_size"] == pytest.approx(1.1)
    assert fetch_pdb("6N4B").name == "6n4b.cif"
    requests = len(server.requests)
    assert fetch_emdb(339) == path
    assert find_reference("emdb:339", tmp_path) == path  # the cache counts as near
    assert find_reference("pdb:6n4b", tmp_path).name == "6n4b.cif"
    assert len(server.requests) == requests
    assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]  # nothing half-done is left


def test_a_reference_is_fetched_only_where_asked(serve: Callable[..., FaultServer], tmp_path: Path) -> None:
    server = serve()
    with pytest.raises(ParameterError, match="cryoflow catalog fetch"):
        find_reference("emdb:339", tmp_path)
    assert server.requests == []
    assert find_reference("emdb:339", tmp_path, fetch=True).is_file()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html>sorry</html>", FormatError),
        (gzip.compress(b"no map at all"), FormatError),
        (gzip.compress(bytes(5000))[:-20], FormatError),
        (gzip.compress(bytes(50_000_000)), ResourceError),
    ],
)
def test_a_map_that_is_none_leaves_nothing(
    serve: Callable[..., FaultServer], folder: Path, tmp_path: Path, content: bytes, kind: type[CryoflowError]
) -> None:
    serve()
    (folder / "emdb/EMD-0339/map/emd_0339.map.gz").write_bytes(content)
    with pytest.raises(kind):
        fetch_emdb(339, tmp_path / "maps", limit=10_000_000)
    assert list((tmp_path / "maps").iterdir()) == []


def test_a_model_that_is_a_page_leaves_nothing(serve: Callable[..., FaultServer], folder: Path, tmp_path: Path) -> None:
    serve()
    (folder / "pdb/6n4b.cif").write_text("<html>sorry</html>")
    with pytest.raises(FormatError, match="a model in mmCIF"):
        fetch_pdb("6n4b", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
    with pytest.raises(ParameterError, match="an identifier such as 6z6u"):
        fetch_pdb("../etc")


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_fetches_an_entry_and_its_reference(serve: Callable[..., FaultServer], tmp_path: Path) -> None:
    from test_cli import command

    serve()
    shown = command("catalog", "show", "10999")
    assert "A made-up structure" in shown.stdout
    assert "# not known: voltage, cs, amplitude_contrast, dose, diameter, symmetry" in shown.stdout
    dry = command("catalog", "fetch", "10999", "--root", "here", "--dry-run", folder=tmp_path)
    assert "EMPIAR-10999: 3 files, about" in dry.stdout
    assert not (tmp_path / "here/10999").exists()
    done = command("catalog", "fetch", "10999:micrographs", "--limit", "1", "--root", "here", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "here/10999/data/Averaged").iterdir())) == 1
    done = command("catalog", "fetch", "emdb:339", "--root", "here", folder=tmp_path)
    assert "here/maps/emd_0339.map" in done.stdout, done.stderr
    wrong = command("catalog", "fetch", "10998", folder=tmp_path)
    assert wrong.returncode == 2
    assert "10998" in wrong.stderr


# --- a campaign over the archive -------------------------------------------------------------------------------------


def test_a_campaign_fetches_what_it_lacks_and_tells_what_it_cannot_have(
    serve: Callable[..., FaultServer], tmp_path: Path
) -> None:
    import yaml

    from cryoflow.workflow.campaign import reprocess

    server = serve(lambda _, path: "403" if "10998" in path else "")
    (tmp_path / "catalogs").mkdir()
    for number in (10998, 10999):
        optics = {"pixel_size": 0.83, "voltage": 300.0, "cs": 2.7, "amplitude_contrast": 0.1}
        sets = {"micrographs": {"kind": "micrographs", "directory": "Averaged", "files": "*.mrc", **optics}}
        values = {
            "entry": f"EMPIAR-{number}", "title": "x", "licence": "CC0-1.0", "source": "", "citation": "",
            "number": number, "imagesets": sets, "specimen": {}, "start": "micrographs",
            "workflow": {"ctf": {"box": 16}},
            "verified": {},
        }  # fmt: skip
        (tmp_path / f"catalogs/EMPIAR-{number}.yaml").write_text(yaml.safe_dump(values))
    output = tmp_path / "campaign"
    refused, done = reprocess([tmp_path / "catalogs"], output=output, fetch=True, limit=2, until="micrographs")
    assert (refused.state, refused.error_type) == ("failed", "ResourceError")
    assert "403" in refused.error
    assert (done.state, done.micrographs, done.usable, done.error) == ("finished", 2, 2, "")
    assert len(list((output / "data/10999/data/Averaged").iterdir())) == 2
    requests = len(server.requests)
    reprocess([tmp_path / "catalogs"], output=output, fetch=True, limit=2, until="micrographs", only=["*10999"])
    assert len(server.requests) == requests
