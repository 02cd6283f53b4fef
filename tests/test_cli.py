"""The command: what it prints, how it ends, and a whole chain of stages by it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from cryoflow.cli.app import as_options, exit_code
from cryoflow.errors import ComputeError, FormatError, ParameterError, ResourceError, SchemaError, StoreError
from cryoflow.io import write_map


def command(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in this process (its start-up is measured elsewhere), with what it wrote and its exit code."""
    from cryoflow.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    patches = [
        mock.patch.object(sys, "argv", ["cryoflow", *map(str, arguments)]),
        mock.patch.dict(os.environ),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(folder or Path.cwd()),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def test_every_command_explains_itself() -> None:
    top = command("--help").stdout
    for name in ("run", "workflow", "catalog", "ctf", "pick", "extract", "refine", "postprocess", "simulate", "report",
                 "inspect"):  # fmt: skip
        assert f"\n  {name} " in top
        assert command(name, "--help").returncode == 0


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ParameterError, 2), (FormatError, 3), (SchemaError, 3), (StoreError, 3), (ComputeError, 4), (ResourceError, 5)],
)
def test_exit_codes(kind: type, code: int) -> None:
    assert exit_code(kind("a", expected="b", found="c")) == code
    assert exit_code(RuntimeError()) == 1
    assert exit_code(KeyboardInterrupt()) == 130


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "EMPIAR-1046", "-o", "x"], 2, "Did you mean EMPIAR-10146?"),
        (["run", "EMPIAR-10146", "-o", "x", "--set", "refine.symetry=O"], 2, "Did you mean symmetry?"),
        (["run", "EMPIAR-10146", "-o", "x", "--root", "."], 2, "none for"),
        (["run", "demo", "-o", "x", "--until", "nothing"], 2, "--until"),
        (["run", "demo", "-o", "x", "--cluster", "moon"], 2, "connect"),
        (["run", "demo", "-o", "file/x"], 5, "a folder that can be written"),
        (["workflow", "validate", "bad.yaml"], 3, "a YAML file"),
        (["pick", ".", "--diameter", "100"], 2, "the folder of a run"),
        (["inspect", "nothing.star"], 2, "an existing file"),
        (["postprocess", "a.star", "a.star", "-o", "x"], 3, "MRC"),
        (["run", "demo"], 2, "--output"),
        (["run", "demo", "-o", "x", "--set", "refine.mask={"], 2, "a value in YAML"),
        (["simulate", "-o", "x", "--shape", "[1,"], 2, "a list like"),
        (["postprocess", "no.mrc", "b.mrc", "-o", "x"], 2, "an existing map"),
        (["postprocess", "no.mrc"], 2, "two half-maps and --output"),
        (["workflow", "init", "demo", "-o", "no/w.yaml"], 2, "a folder to write in"),
        (["run", "a.star", "-o", "x"], 2, "refine.reference and refine.diameter"),
    ],
)
def test_an_error_of_use_is_one_line(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1")
    (tmp_path / "file").write_text("")
    (tmp_path / "a.star").write_text("data_\n" + "x" * 2000)
    ended = command(*arguments, folder=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_null_can_be_said_where_it_is_a_value() -> None:
    from cryoflow.cli.options import with_options
    from cryoflow.workflow.parameters import Pick

    heard: dict[str, object] = {}

    @with_options(stage=Pick)
    def stage(stage: dict[str, object]) -> None:
        heard.update(stage)

    stage(diameter=100.0, contaminants="null")
    assert Pick.model_validate(heard).contaminants is None
    stage(diameter=100.0, contaminants="4")
    assert Pick.model_validate(heard).contaminants == 4.0


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "cryoflow", "--debug", "run", "nothing", "-o", "x"]
    assert "Traceback" in subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=False).stderr


def test_catalog_and_workflow_files(tmp_path: Path) -> None:
    assert "EMPIAR-10146" in command("catalog", "list").stdout
    assert "symmetry: O" in command("catalog", "show", "EMPIAR-10146").stdout
    assert command("workflow", "init", "demo", "-o", "w.yaml", folder=tmp_path).returncode == 0
    assert "shape:" in (tmp_path / "w.yaml").read_text()
    valid = command("workflow", "validate", "w.yaml", folder=tmp_path)
    assert "simulate -> micrographs -> ctf -> pick -> extract -> refine -> postprocess -> report" in valid.stdout
    again = command("workflow", "init", "demo", "-o", "w.yaml", folder=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small simulated micrographs, taken through every stage by single-stage commands."""
    folder = tmp_path_factory.mktemp("cli")
    steps = [
        ["simulate", "-o", "run", "--n", "2", "--shape", "[512, 512]", "--pixel-size", "4", "--symmetry", "D2",
         "--diameter", "100", "--particles-per-micrograph", "40", "--snr", "0.4", "--contaminants", "0"],
        ["ctf", "run/simulated/micrographs/*.mrc", "-o", "real", "--pixel-size", "4", "--voltage", "300", "--cs", "2.7",
         "--amplitude-contrast", "0.1", "--max-resolution", "9"],
        ["pick", "real", "--diameter", "100"],
        ["extract", "real", "--box", "40", "--edge", "particle"],
        ["refine", "real", "--reference", "reference.mrc", "--diameter", "130", "--symmetry", "D2", "--ini-high", "30",
         "--limit", "2", "--order", "1"],
        ["postprocess", "real/half1.mrc", "real/half2.mrc", "-o", "sharp", "--fit-range", "[20, 9]"],
        ["postprocess", "real", "--b-factor", "-40", "--fit-range", "[20, 9]"],
        ["report", "real"],
    ]  # fmt: skip
    for step in steps:
        if step[0] == "refine":
            write_reference(folder)
        ended = command(*step, folder=folder)
        assert ended.returncode == 0, f"{' '.join(step)}\n{ended.stderr}"
    return folder


def write_reference(folder: Path) -> None:
    from cryoflow.io import write_map
    from cryoflow.workflow.sources import true_map

    write_map(folder / "reference.mrc", true_map(folder / "run", box=40, pixel_size=4.0))


def test_stages_leave_what_other_programs_read(run_folder: Path) -> None:
    from cryoflow.io import open_micrographs, open_store, read_coordinates, read_map, read_particles

    real = run_folder / "real"
    micrographs = open_micrographs(real / "micrographs_ctf.star", allow_outside=True)
    assert micrographs.sizes["micrograph"] == 2
    picks = sorted((real / "picks").glob("*.star"))
    particles = read_particles(real / "particles.star")
    assert sum(len(read_coordinates(p)) for p in picks) >= particles.sizes["particle"] > 40
    assert {"rotation", "shift", "half", "coordinate", "image"} <= set(particles.variables)
    assert set(particles["half"].values) == {1, 2}
    assert particles["image"].shape[1:] == (40, 40)
    for name in ("half1", "half2", "map"):
        assert read_map(real / f"{name}.mrc").shape == (40, 40, 40)
    for name in ("map_sharpened.mrc", "mask.mrc", "fsc.csv"):
        assert (run_folder / "sharp" / name).stat().st_size > 1000
    assert (real / "report.html").stat().st_size > 10000
    assert open_store(real / "stores/postprocess.zarr").attrs["b_factor"] == -40
    refused = command("postprocess", "real/half1.mrc", "real/half2.mrc", "-o", "real", folder=run_folder)
    assert refused.returncode == 2 and "not a run's" in refused.stderr  # noqa: PT018
    assert open_store(real / "stores/poses.zarr").sizes["particle"] == particles.sizes["particle"]


@pytest.mark.skipif(not shutil.which("relion_reconstruct"), reason="relion_reconstruct is not installed")
def test_relion_makes_the_same_map_of_the_refined_particles(run_folder: Path) -> None:
    import numpy as np

    from cryoflow.io import read_map
    from cryoflow.kernels.resolution import fsc

    real = run_folder / "real"
    arguments = ["--i", "particles.star", "--o", "relion.mrc", "--ctf", "--sym", "D2"]
    subprocess.run(["relion_reconstruct", *arguments], cwd=real, check=True, capture_output=True)
    curve = fsc(read_map(real / "relion.mrc").values, read_map(real / "map.mrc").values)
    assert np.all(curve[1:9] > 0.9), curve


def test_the_ctf_is_that_of_the_truth(run_folder: Path) -> None:
    import numpy as np

    from cryoflow.io import open_store, read_particles

    truth = read_particles(run_folder / "run/simulated/truth.star", images=False)
    names = truth["micrograph_name"].values.astype(object).astype(str)
    found = open_store(run_folder / "real/stores/ctf.zarr").load()
    for row, name in enumerate(found["micrograph_name"].values):
        true = truth["defocus_u"].values[names == str(name)][0]
        assert np.isclose(found["defocus_u"].values[row], true, atol=600)


def test_figures_hold_every_stage(run_folder: Path) -> None:
    figures = json.loads((run_folder / "real/figures.json").read_text())
    assert list(figures["stages"]) == ["micrographs", "ctf", "pick", "extract", "refine", "postprocess"]
    assert all(stage["cpu_seconds"] > 0 for stage in figures["stages"].values())


def test_going_on_skips_what_is_finished(run_folder: Path) -> None:
    ended = command("extract", "real", folder=run_folder)  # the box too is the run's
    # edge=particle, given at first and not now, is kept: nothing has to be done again
    assert ended.stderr.count("finished before, skipped") == 4, ended.stderr


@pytest.mark.parametrize("name", ["stores/poses.zarr", "particles.star", "map.mrc", "extracted.mrcs"])
def test_inspect_tells_what_is_there(run_folder: Path, name: str) -> None:
    shown = command("inspect", f"real/{name}", folder=run_folder).stdout
    assert name.rpartition("/")[2] in shown
    assert len(shown.splitlines()) >= 1 + 5 * (not name.endswith(("mrc", "mrcs")))


@pytest.mark.data
def test_errors_name_the_options_of_the_command(data: Path, tmp_path: Path) -> None:
    """What Python calls ``pixel_size=`` is ``--pixel-size`` to who typed a command; other names stay."""
    ended = command("import", str(data / "particles/parts-15_128x128f.par"), "-o", "a.zarr", folder=tmp_path)
    assert ended.returncode == 3
    assert "Give --pixel-size in angstrom, or --option detector_pixel= in micrometre." in ended.stderr
    ended = command("table", str(data / "particles/relion31.6opticsgroups.star"), folder=tmp_path)
    assert "or pass --mixed-pixel-sizes." in ended.stderr


@pytest.mark.parametrize(
    ("words", "message", "says"),
    [
        ("refine p.star", "none found. Give root=, or pass images=False to read the metadata alone.", "Give --root."),
        ("run p.star", "Give pixel_size= in angstrom.", "Give --set particles.pixel_size= in angstrom."),
        ("run w.yaml", "a, or pass trust_given=True if b.", "a, or pass --set micrographs.trust_given=true if b."),
        (
            "workflow validate w.yaml",
            "Pass allow_outside=True if b.",
            "Pass --set micrographs.allow_outside=true if b.",
        ),
        ("refine p.star", "copy it again, or open its 39 whole sections with check_size=False.", "copy it again."),
        ("refine p.star", "Rescale, or pass mixed_pixel_sizes=True.", "Rescale."),
        ("table p.star", "Rescale, or pass mixed_pixel_sizes=True.", "Rescale, or pass --mixed-pixel-sizes."),
        ("pick run", "Give it in the file, or --set pick.diameter=VALUE.", "Give it in the file, or --diameter VALUE."),
        ("refine p.star", "Give it with --set particles.voltage=VALUE.", "Give it with --voltage VALUE."),
    ],
)
def test_remedies_are_what_the_command_can_do(words: str, message: str, says: str) -> None:
    import cryoflow.cli.run
    import cryoflow.cli.stages
    import cryoflow.cli.table  # noqa: F401 - commands register themselves

    with mock.patch.object(sys, "argv", ["cryoflow", *words.split()]):
        assert as_options(message).endswith(says)


def test_nothing_of_others_is_replaced_by_postprocessing(tmp_path: Path) -> None:
    maps = np.random.default_rng(0).normal(size=(2, 16, 16, 16)).astype("f4")
    for name, values in zip(("a.mrc", "b.mrc", "mask.mrc"), (*maps, np.ones((16, 16, 16), "f4")), strict=True):
        write_map(tmp_path / name, values, pixel_size=2.0)
    before = (tmp_path / "mask.mrc").read_bytes()
    for words, says in ((["--mask", "mask.mrc", "--overwrite"], "another folder"), ([], "Pass --overwrite")):
        ended = command("postprocess", "a.mrc", "b.mrc", "-o", ".", *words, folder=tmp_path)
        assert ended.returncode == 2
        assert says in ended.stderr
        assert (tmp_path / "mask.mrc").read_bytes() == before
    ended = command("postprocess", "a.mrc", "b.mrc", "-o", ".", "--overwrite", folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "mask.mrc").read_bytes() != before


def test_a_run_is_not_told_how_to_read_a_stack(run_folder: Path) -> None:
    ended = command("refine", "real", "--pixel-size", "2", folder=run_folder)
    assert ended.returncode == 2
    assert "--pixel-size: expected a particle stack" in ended.stderr


def test_places_that_cannot_be_written_end_with_one_line(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", np.ones((8, 8, 8), "f4"), pixel_size=2.0)
    for words in (["import", "m.mrc", "-o", "/proc/m.zarr"], ["convert", "m.mrc", "/proc/none/m.spi"],
                  ["inspect", "m.mrc", "--thumbnail", "/proc/m.png"]):  # fmt: skip
        ended = command(*words, folder=tmp_path)
        assert ended.returncode == 5
        assert "/proc/" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_a_pixel_size_is_above_nothing(tmp_path: Path) -> None:
    write_map(tmp_path / "m.mrc", np.ones((8, 8, 8), "f4"), pixel_size=2.0)
    (tmp_path / "s.mrcs").write_bytes((tmp_path / "m.mrc").read_bytes())
    for name, code in (("m.mrc", 3), ("s.mrcs", 2)):
        ended = command("import", name, "-o", "a.zarr", "--pixel-size", "-3", folder=tmp_path)
        assert (ended.returncode, "-3" in ended.stderr) == (code, True), ended.stderr
    ended = command("table", "s.mrcs", "-o", "o.xyz", folder=tmp_path)
    assert "give --to of these" in ended.stderr
