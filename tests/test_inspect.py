"""``inspect_data`` and ``cryoflow inspect``: real files with known answers, and files broken in known ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from data_table import generate
from test_cli import command

from cryoflow.errors import CryoflowError, ParameterError
from cryoflow.io.formats import open_data
from cryoflow.io.images.mrc import write_map, write_stack
from cryoflow.io.stores.store import save
from cryoflow.workflow.inspection import Inspection, inspect_data
from cryoflow.workflow.inspection.pixels import picture, spread

STAR = """# version 30001
data_optics
loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
1 one {voltage} 2.7 0.1 {pixel}
data_particles
loop_
_rlnImageName
_rlnMicrographName
_rlnOpticsGroup
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnRandomSubset
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
{rows}
"""
N = 40


def stack(path: Path, count: int = 20, box: int = 16, *, pixel: float = 1.5, sign: float = 1.0, bad: int = 0) -> None:
    """Noise with a blob of density in the middle of each image; ``bad`` images hold a NaN."""
    rng = np.random.default_rng(3)
    axis = np.arange(box) - box // 2
    blob = np.exp(-(axis[:, None] ** 2 + axis**2) / (0.1 * box * box))
    images = (rng.normal(0, 1, (count, box, box)) + sign * 3 * blob).astype(np.float32)
    images[:bad, 2, 3] = np.nan
    write_stack(path, xr.DataArray(images, dims=("particle", "y", "x")), pixel_size=pixel)


def star(folder: Path, edit: Callable[[list[list[str]]], Any] = len, **values: Any) -> Path:
    """40 particles of two stacks; ``edit`` changes the rows."""
    rows = [
        [f"{i % 20 + 1:06d}@{'ab'[i // 20]}.mrcs", f"m{i % 4}.mrc", "1", str(i), str(2 * i), "3", str(1 + i % 2),
         str(9000 + 100 * i), "9000", "10"] for i in range(N)
    ]  # fmt: skip
    edit(rows)
    for name in "ab":
        if not (folder / f"{name}.mrcs").exists():
            stack(folder / f"{name}.mrcs")
    text = STAR.format(rows="\n".join(" ".join(r) for r in rows), **({"voltage": 300, "pixel": 1.5} | values))
    (folder / "p.star").write_text(text)
    return folder / "p.star"


def column(index: int, value: Callable[[int], str]) -> Callable[[list[list[str]]], None]:
    def edit(rows: list[list[str]]) -> None:
        for i, row in enumerate(rows):
            row[index] = value(i)

    return edit


def said(found: Inspection, severity: str = "") -> str:
    return "\n".join(str(f) for f in found.findings if f.severity == severity or not severity)


def test_a_sound_set_has_no_findings(tmp_path: Path) -> None:
    found = inspect_data(star(tmp_path))
    assert not found.findings
    assert found.format == "relion-particles"
    assert found.facts["particles"] == N
    assert found.facts["micrographs"] == 4
    assert found.facts["optics"]["pixel_size"] == "1.5"
    assert found.facts["box"] == "16 x 16"
    assert "3.1" in found.facts["written by"]
    assert found.facts["contrast"].startswith("particles look bright")
    assert found.facts["half-sets"] == "20 and 20"
    assert found.command == f"cryoflow import {tmp_path}/p.star -o p.zarr"
    assert found.thumbnail.dtype == np.uint8
    assert found.thumbnail.std() > 10


@pytest.mark.parametrize(
    ("spoil", "severity", "says"),
    [
        (lambda f: star(f, column(0, lambda i: f"{i % 20 + 1}@no{i // 20}.mrcs")), "error", "2 of 2 stacks are not"),
        (lambda f: star(f, column(0, lambda i: f"{i + 1}@a.mrcs")), "error", "image 21 of a.mrcs, which has 20 (20"),
        (lambda f: star(f, column(0, lambda i: f"{i % 20 + 1}@../../x/{'ab'[i // 20]}.mrcs")), "error", "lead outside"),
        (lambda f: star(f, column(0, lambda i: f"{i % 20 + 1}@/etc/passwd")), "error", "lead outside"),
        (lambda f: star(f, column(0, lambda i: f"x{i}@a.mrcs")), "error", "no image name like"),
        (lambda f: (stack(f / "b.mrcs", box=20), star(f))[1], "error", "2 different boxes"),
        (lambda f: (stack(f / "b.mrcs", pixel=3.0), star(f))[1], "error", "the header says 3 A a pixel, the table 1.5"),
        (lambda f: (stack(f / "a.mrcs", bad=20), star(f))[1], "error", "images hold NaN"),
        (lambda f: (dark(f), star(f))[1], "warning", "dark on bright"),
        (lambda f: (cut(f / "b.mrcs"), star(f))[1], "error", "truncated in section"),
        (lambda f: star(f, voltage=300000), "error", "voltage 300000 is no value in kV"),
        (lambda f: star(f, pixel=0), "error", "pixel sizes above 0"),
        (lambda f: star(f, both(lambda i: 0.9 + 0.01 * i)), "error", "look like micrometres"),
        (lambda f: star(f, both(lambda i: -9000.0 - i)), "error", "defoci are negative"),
        (lambda f: star(f, both(lambda i: 0.0 * i)), "warning", "all defoci are 0"),
        (lambda f: star(f, both(lambda i: 900000.0 if i == 3 else 9000.0)), "warning", "1 rows have a defocus"),
        (lambda f: star(f, column(6, lambda i: str(1 + 0 * i))), "warning", "half-set 2 is empty"),
        (lambda f: star(f, column(6, lambda i: str(1 + (i > 33)))), "warning", "half-sets are unequal: 34 and 6"),
        (lambda f: star(f, column(6, lambda i: str(i % 3))), "warning", "rows are in neither half-set"),
        (lambda f: star(f, lambda rows: rows.append(list(rows[0]))), "warning", "1 of 41 rows are there twice"),
        (lambda f: star(f, lambda rows: rows.append([*rows[0][:3], "70", *rows[0][4:]])), "note", "in another pose"),
        (lambda f: star(f, column(7, lambda i: "nan" if i == 4 else "9000")), "error", "row 5"),
        (lambda f: star(f, lambda rows: rows.clear()), "error", "at least one row"),
        (lambda f: star(f, lambda rows: rows[5].pop()), "error", "p.star"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_particles(tmp_path: Path, spoil: Any, severity: str, says: str) -> None:
    found = inspect_data(spoil(tmp_path))
    assert says in said(found, severity), said(found)
    assert found.broken == (severity == "error")
    assert all(f.where and f.what for f in found.findings)


def both(value: Callable[[int], float]) -> Callable[[list[list[str]]], None]:
    def edit(rows: list[list[str]]) -> None:
        for i, row in enumerate(rows):
            row[7] = row[8] = f"{value(i):.3f}"

    return edit


def dark(folder: Path) -> None:
    for name in "ab":
        stack(folder / f"{name}.mrcs", sign=-1)


def cut(path: Path) -> None:
    stack(path)
    path.write_bytes(path.read_bytes()[:-1500])


def test_only_full_finds_the_one_bad_image(tmp_path: Path) -> None:
    path = star(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (400, 16, 16)).astype(np.float32)
    images[3, 1, 1] = np.inf
    write_stack(tmp_path / "big.mrcs", xr.DataArray(images, dims=("particle", "y", "x")), pixel_size=1.5)
    assert 3 not in spread(400, 64)
    found = inspect_data(tmp_path / "big.mrcs")
    assert not found.broken
    assert "64 of 400 images read" in found.facts["values"]
    full = inspect_data(tmp_path / "big.mrcs", full=True)
    assert "1 of 400 images hold NaN or infinity, the first 4@big.mrcs" in said(full, "error")
    assert not inspect_data(path, full=True).findings


def test_images_by_themselves(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / "m.mrc"
    write_map(path, rng.normal(5, 2, (12, 12, 12)), pixel_size=2.5, origin=(1.0, 2.0, 3.0))
    found = inspect_data(path)
    assert (found.kind, found.facts["size"], found.facts["pixel size"]) == ("map", "12 x 12 x 12", "2.5 x 2.5 x 2.5 A")
    assert found.facts["origin"] == "1 2 3"
    assert "cryoflow" in found.facts["labels"]
    assert "mean 5." in found.facts["values"] or "mean 4.9" in found.facts["values"]
    raw = bytearray(path.read_bytes())
    (tmp_path / "short.mrc").write_bytes(raw[:-700])
    short = inspect_data(tmp_path / "short.mrc")
    assert "truncated in section 11" in said(short, "error")
    assert short.facts["size"].startswith("12 x 12 x 10")
    raw[40:44] = np.float32(24.0).tobytes()  # x extent: 2 A against 2.5
    (tmp_path / "skew.mrc").write_bytes(raw)
    assert "not square or cubic" in said(inspect_data(tmp_path / "skew.mrc"), "error")
    write_map(tmp_path / "flat.mrc", np.ones((8, 8, 8)), pixel_size=2.0)
    assert "one single value" in said(inspect_data(tmp_path / "flat.mrc"), "error")
    (tmp_path / "noise.bin").write_bytes(rng.bytes(5000))
    noise = inspect_data(tmp_path / "noise.bin")
    assert noise.broken
    assert noise.command == ""
    with pytest.raises(ParameterError, match="an existing file"):
        inspect_data(tmp_path / "nothing.mrc")


@pytest.mark.parametrize(("mode", "dtype"), [(0, np.uint8), (1, np.uint16), (6, np.int16)])
def test_signs_read_wrong_are_noticed(tmp_path: Path, mode: int, dtype: Any) -> None:
    """Values of one signedness stored under a mode of the other."""
    import mrcfile

    rng = np.random.default_rng(2)
    middle = {0: 128, 1: 32768, 6: 0}[mode]
    width = 20 if mode == 0 else 3000
    values = rng.normal(middle, width, (4, 32, 32)).astype(dtype)
    read_as = {0: np.int8, 1: np.int16, 6: np.uint16}[mode]
    with mrcfile.new(tmp_path / "s.mrcs", data=values.view(read_as)) as file:
        file.set_image_stack()
        file.voxel_size = 1.5
    assert file is not None
    assert "sign was read wrong" in said(inspect_data(tmp_path / "s.mrcs"), "error")
    right = rng.normal(0 if mode != 6 else 30000, width, (4, 32, 32)).astype(read_as)
    with mrcfile.new(tmp_path / "r.mrcs", data=right) as file:
        file.set_image_stack()
        file.voxel_size = 1.5
    assert not inspect_data(tmp_path / "r.mrcs").broken


def test_stores_and_folders(tmp_path: Path) -> None:
    ds = xr.Dataset({
        "image": (("particle", "y", "x"), np.random.default_rng(0).random((5, 16, 16), np.float32)),
        "defocus_u": ("particle", np.full(5, 1.2)), "half": ("particle", np.array([1, 2, 1, 2, 1])),
    })  # fmt: skip
    save(ds, tmp_path / "p.zarr", function="test", parameters={"n": 5})
    found = inspect_data(tmp_path / "p.zarr")
    assert found.kind == "store"
    assert "by" not in found.facts
    assert found.facts["made by"].startswith("test, cryoflow")
    assert "look like micrometres" in said(found, "error")
    star(tmp_path)
    cut(tmp_path / "c.mrcs")
    (tmp_path / "empty.mrcs").touch()
    (tmp_path / "run.err").touch()  # a good sign
    folder = inspect_data(tmp_path)
    assert folder.kind == "folder"
    assert folder.facts["by suffix"][".mrcs"] == 4
    assert "p.zarr" in folder.facts["stores"]
    assert "truncated" in said(folder, "error")
    assert "1 files are empty" in said(folder, "warning")


@pytest.mark.parametrize(
    ("files", "title"),
    [
        (["workflow.yaml", "stores/x"], "run of cryoflow"), (["default_pipeline.star"], "RELION project"),
        (["job_pipeline.star", "run_it025_data.star"], "job of RELION"),
        (["J12/job.json", "J12/J12_particles.cs"], "project of cryoSPARC"),
    ],
)  # fmt: skip
def test_folders_are_recognised(tmp_path: Path, files: list[str], title: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = inspect_data(tmp_path)
    assert found.title == title
    if title == "job of RELION":
        assert found.command == f"cryoflow import {tmp_path}/run_it025_data.star -o NAME.zarr"
    if "cryoSPARC" in title:
        job = inspect_data(tmp_path / "J12")
        assert (job.title, job.command.split()[2]) == ("job of cryoSPARC", f"{tmp_path}/J12/J12_particles.cs")


def test_pictures() -> None:
    assert picture([]) is None
    tiles = picture([np.arange(100.0 * 80).reshape(100, 80)] * 5)
    assert tiles is not None
    assert tiles.shape == (100, 120)  # two rows of three tiles, which are as large as what they hold
    assert tiles.max() == 255
    assert picture([np.full((8, 8), np.nan)]) is not None


# the command ----------------------------------------------------------------------------------------------------------
def test_the_command(tmp_path: Path) -> None:
    path = star(tmp_path)
    done = command("inspect", str(path), "--thumbnail", str(tmp_path / "t.png"))
    assert done.returncode == 0, done.stderr
    assert "nothing wrong was found" in done.stdout
    assert f"import with: cryoflow import {path}" in done.stdout
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    broken = star(tmp_path, column(0, lambda i: f"{i % 20 + 1}@gone.mrcs"))
    done = command("inspect", str(broken), "--json")
    assert done.returncode == 3
    report = json.loads(done.stdout)
    assert report["broken"]
    assert report["kind"] == "particles"
    assert report["findings"][0]["severity"] == "error"
    assert "--root FOLDER" in report["command"]
    assert command("inspect", str(tmp_path / "none")).returncode == 2


# real files -----------------------------------------------------------------------------------------------------------
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "kind", "severity", "says"),
    [
        ("particles/empiar_10076_7.star", "particles", "", ""),
        ("particles/empiar_10076_7.cs", "particles", "", ""),
        ("particles/sample_particles_relion31.star", "particles", "", ""),
        ("particles/relion31.star", "particles", "warning", "half-set 2 is empty"),
        ("particles/relion5.star", "particles", "error", "2 of 2 stacks are not"),
        ("particles/relion31.6opticsgroups.star", "particles", "error", "different pixel sizes: 1.24, 1.25 A"),
        ("particles/parts.stk", "images", "error", "not square or cubic: 90.3438 x 107.25"),
        ("particles/parts-15_128x128f.par", "particles", "warning", "expected a pixel size"),
        ("particles/sample.mrcs", "images", "warning", "does not say a pixel size"),
        ("particles/empiar_10076_7.mrc", "images", "warning", "does not say a pixel size"),
        ("metadata/t20s_J209_000_particles.cs", "particles", "error", "196 of 196 stacks are not there"),
        ("metadata/betagal_refine3d/run_it016_optimiser.star", "metadata", "", ""),
        ("maps/apoferritin_half1_unfil.mrc", "map", "", ""),
        ("maps/EMD-3001.map", "map", "error", "not square or cubic"),
        ("micrographs/fei-extended.mrc", "images", "", ""),
        ("micrographs/KLH.tif", "images", "warning", "does not say a pixel size"),
        ("models/6z6u.pdb", "model", "note", "reference"),
        ("README.md", "unknown", "error", "a known format"),
    ],
)
def test_real_files(data: Path, name: str, kind: str, severity: str, says: str) -> None:
    found = inspect_data(data / name)
    assert found.kind == kind
    assert says in said(found, severity or "error")
    if not severity:
        assert not found.findings, said(found)


@pytest.mark.data
def test_real_folders(data: Path) -> None:
    found = inspect_data(data / "empiar-10146" / "micrographs")
    assert found.facts["images"] == "20 files, 1240 x 1200 (20)"
    assert found.facts["pixel size"] == "1.5 A (20)"
    assert "'" + str(data / "empiar-10146" / "micrographs") + "/*.mrc'" in found.command
    assert "--pixel-size 1.5 " in found.command  # open_micrographs wants to be told
    assert not found.broken
    whole = inspect_data(data)
    assert whole.facts["by suffix"][".mrc"] >= 30


@pytest.mark.data
def test_every_command_of_a_sound_file_opens_it(data: Path) -> None:
    """What an inspection calls sound opens with the options that its command names, and no others."""
    given: dict[str, Any] = {"ANGSTROM": 1.5, "KV": 300.0, "MM": 2.7, "FRACTION": 0.1}
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        found = inspect_data(path)
        words = found.command.split()
        if found.broken or not words:
            continue
        options = {
            words[i][2:].replace("-", "_"): given.get(words[i + 1], words[i + 1])
            for i in range(len(words)) if words[i][:2] == "--"
        }  # fmt: skip
        for name in ("pixel_size",):
            options[name] = float(options[name]) if name in options else None
        options = {name: value for name, value in options.items() if value is not None}
        if "stack" in options:
            continue
        try:
            open_data(path, **options)
        except CryoflowError as error:
            pytest.fail(f"{found.command}: {error}")


@pytest.mark.data
def test_the_table_of_the_data_is_up_to_date(data: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "data_table.md").read_text(encoding="utf-8")
    assert page == generate(data), "run: python tests/data_table.py"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data_x\n", "block data_x is empty"),
        ("data_general\n_rlnA 1\ndata_z\nloop_\n_rlnB\n", "block data_z has labels but no rows"),
        ("data_optics\nloop_\n_rlnOpticsGroup\n1\ndata_particles\n", "block data_particles is empty"),
    ],
)
def test_a_star_file_cut_after_a_block_begins_is_not_whole(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.star").write_text(text)
    found = [f for f in inspect_data(tmp_path / "a.star").findings if f.severity == "warning"]
    assert [(f.what, f.remedy.split(":")[0]) for f in found] == [(says, "The file may be cut off there")]


def test_folders_tell_maps_tables_and_images_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "maps").mkdir()
    for i in range(2):
        volume = rng.normal(size=(16, 16, 16)).astype("f4")
        volume[0] = 0  # an empty section is no fault of a map
        write_map(tmp_path / "maps" / f"{i}.mrc", volume, pixel_size=1.5)
    found = inspect_data(tmp_path / "maps")
    assert found.facts["maps"] == "2 files, 16 x 16 x 16 (2)"
    assert (found.command, found.findings) == ("", [])
    (tmp_path / "job").mkdir()
    table = star(tmp_path / "job")
    found = inspect_data(tmp_path / "job")
    assert found.facts["tables"] == {"particles": table.name}
    assert found.command == f"cryoflow import {table} -o NAME.zarr"
    many = inspect_data(tmp_path / "*" / "*.mrc")
    assert many.facts["maps"] == "2 files, 16 x 16 x 16 (2)"
    with pytest.raises(ParameterError, match="fit the pattern"):
        inspect_data(tmp_path / "none*.mrc")
    (tmp_path / "mics").mkdir()
    for i in range(2):
        image = rng.normal(size=(1, 20, 30)).astype("f4")
        write_stack(tmp_path / "mics" / f"{i}.mrc", xr.DataArray(image, dims=("n", "y", "x")), pixel_size=1.5)
    pattern = tmp_path / "mics" / "*.mrc"
    found = inspect_data(pattern)
    assert found.command.startswith(f"cryoflow import '{pattern}' -o NAME.zarr --pixel-size 1.5 --voltage KV")
    assert inspect_data(tmp_path / "mics" / "0.mrc").command.startswith(
        f"cryoflow import {tmp_path}/mics/0.mrc -o 0.zarr --format micrographs --pixel-size 1.5 --voltage KV"
    )


def test_commands_name_what_an_import_needs(tmp_path: Path) -> None:
    """Options where they would do; no command where an import is refused in any case."""
    table = star(tmp_path)
    text = table.read_text()
    table.write_text(text.replace("@a.mrcs", "@../../../../../a.mrcs"))
    assert inspect_data(table).command.endswith("--allow-outside")
    table.write_text(text)
    (tmp_path / "b.mrcs").write_bytes((tmp_path / "b.mrcs").read_bytes()[:-100])
    found = inspect_data(table)
    assert found.command == ""
    assert found.lines()[-1] == "cryoflow import refuses it until the errors are put right"
    (tmp_path / "q.par").write_text("".join(f"{i} 0 0 0 0 0 50000 1 9000 9000 0 50 50\n" for i in (1, 2, 3)))
    assert "--stack FILE" in inspect_data(tmp_path / "q.par").command
    import mrcfile

    with mrcfile.new(tmp_path / "flat.mrcs") as file:
        file.set_data(np.ones((3, 8, 8), "f4"))
        file.voxel_size = (1.5, 2.5, 1)
    assert inspect_data(tmp_path / "flat.mrcs").command.endswith("--pixel-size ANGSTROM")


def test_blocks_that_differ_in_a_number_share_a_line(tmp_path: Path) -> None:
    blocks = "".join(f"data_model_group_{i}\nloop_\n_rlnX\n1\n2\n" for i in range(1, 25))
    (tmp_path / "m.star").write_text("data_general\n_rlnY 3\n" + blocks)
    assert inspect_data(tmp_path / "m.star").facts["blocks"] == {
        "data_general": "1 rows: rlnY", "data_model_group_1 .. 24": "2 rows: rlnX",
    }  # fmt: skip


def test_the_picture_of_one_stack_shows_many_particles(tmp_path: Path) -> None:
    table = star(tmp_path, lambda rows: rows.__delitem__(slice(20, None)))
    shown = inspect_data(table).thumbnail
    assert shown.shape == (4 * 16, 4 * 16)
    assert not np.array_equal(shown[:16, :16], shown[-16:, -16:])
