"""Workflow files: what is refused before anything starts, what is skipped, redone and resumed."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from cryoflow.display.report_run import warnings
from cryoflow.display.runfolder import RunFiles
from cryoflow.errors import CryoflowError, FormatError, ParameterError, ResourceError
from cryoflow.workflow import Workflow, check_files, load_workflow, parse_settings, run, to_yaml
from cryoflow.workflow import parameters as p
from cryoflow.workflow.digest import code_digest, digest, fingerprint
from cryoflow.workflow.folder import RunFolder
from cryoflow.workflow.measure import Meter
from cryoflow.workflow.runner import Context, StageSpec, open_run, run_stages

CHAIN: dict[str, Any] = {
    "micrographs": {"pixel_size": 1.5, "voltage": 300, "cs": 2.7, "amplitude_contrast": 0.1},
    "pick": {"diameter": 130},
    "extract": {"box": 128},
    "refine": {"diameter": 130, "reference": "map.mrc"},
}


def chain(**changes: Any) -> dict[str, Any]:
    """The chain with some stages' values changed."""
    return {k: {**v, **changes.get(k, {})} for k, v in CHAIN.items()} | {
        k: v for k, v in changes.items() if k not in CHAIN
    }


# --- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "place", "says"),
    [
        (chain(refine={"symetry": "O"}), "refine.symetry", "Did you mean symmetry"),
        (chain(rfine={}), "rfine", "Did you mean refine"),
        (chain(refine={"symmetry": "Q"}), "refine.symmetry", "a point group: Cn, Dn, T, O or I (I1 to I4); found 'Q'"),
        (chain(refine={"diameter": "wide"}), "refine.diameter", "expected a number; found 'wide'"),
        (chain(refine={"diameter": -1}), "refine.diameter", "greater than 0"),
        (chain(refine={"diameter": float("nan")}), "refine.diameter", "finite"),
        (chain(refine={"diameter": 500}), "workflow", "narrower than"),
        (chain(refine={"ini_high": 2}), "workflow", "beyond Nyquist"),
        (chain(refine={"reference": {"pdb": "../../x"}}), "refine.reference", "no PDB identifier"),
        (chain(extract={"box": 127}), "extract.box", "multiple of 2"),
        (chain(extract={"rescale": 256}), "extract", "must not exceed box"),
        (chain(micrographs={"pixel_size": 0}), "micrographs.pixel_size", "0.1"),
        (chain(micrographs={"pixel_size": 50.0}), "workflow", "beyond Nyquist"),
        (chain(micrographs={"voltage": 300000}), "micrographs.voltage", "1300"),
        (chain(ctf={"min_defocus": 9000, "max_defocus": 8000}), "ctf", "above min_defocus"),
        (chain(particles={"path": "a.star"}), "workflow", "one source"),
        ({k: v for k, v in CHAIN.items() if k != "pick"}, "workflow", "needs pick"),
        ({"refine": CHAIN["refine"]}, "workflow", "one source"),
        ({"particles": {"path": "a.star"}}, "workflow", "no stage refine, which particles need"),
        ({**chain(), "entry": "EMPIAR-1046"}, "catalog", "Did you mean EMPIAR-10146"),
    ],
)
def test_wrong_values_are_refused_by_place(values: dict[str, Any], place: str, says: str) -> None:
    with pytest.raises(ParameterError) as error:
        load_workflow(values)
    assert place in error.value.where
    assert says in str(error.value)


def test_an_entry_lies_below_what_is_given() -> None:
    w = load_workflow("EMPIAR-10146", settings=parse_settings(["refine.symmetry=D2", "extract.rescale=64"]))
    assert w.refine is not None
    assert w.extract is not None
    assert w.micrographs is not None
    assert (w.refine.symmetry, w.refine.diameter, w.refine.reference) == ("D2", 150.0, "pdb:6z6u")
    assert (w.extract.box, w.extract.rescale, w.micrographs.pixel_size) == (128, 64, 1.5)
    assert w.stages == ("micrographs", "ctf", "pick", "extract", "refine", "postprocess", "report")


def test_a_stack_takes_only_refinement_from_an_entry() -> None:
    w = load_workflow("some/particles.star", settings={"entry": "EMPIAR-10146"})
    assert w.stages == ("particles", "refine", "postprocess", "report")
    assert w.refine is not None
    assert w.refine.symmetry == "O"


def test_a_point_group_may_be_written_small() -> None:
    assert load_workflow(chain(refine={"symmetry": "d7"})).refine.symmetry == "D7"


def test_a_workflow_may_stop_early() -> None:
    assert load_workflow({"micrographs": CHAIN["micrographs"]}).stages == ("micrographs", "ctf", "report")


def test_a_file_gives_itself_back(tmp_path: Path) -> None:
    first = load_workflow("EMPIAR-10146")
    (tmp_path / "w.yaml").write_text(to_yaml(first))
    assert load_workflow(tmp_path / "w.yaml") == first


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_mapping_is_a_format_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(FormatError, match=r"w\.yaml"):
        load_workflow(tmp_path / "w.yaml")


@pytest.mark.parametrize("setting", ["refine.symmetry", "=O", "refine.=1", ".x=1"])
def test_a_setting_must_have_a_name_and_a_value(setting: str) -> None:
    with pytest.raises(ParameterError, match=r"stage\.name=value"):
        parse_settings([setting])


FUNCTIONS: dict[str, tuple[type[p.Stage], set[str], set[str]]] = {
    # function: its model, the fields that are not its parameters, and the keyword parameters that no file gives
    "open_micrographs": (p.Micrographs, {"path"}, set()),
    "read_particles": (p.Particles, {"path"}, {"images", "mixed_pixel_sizes", "chunk_bytes"}),
    "simulate_micrographs": (p.Simulate, {"source"}, set()),
    "estimate_ctf": (p.Ctf, set(), {"client"}),
    "pick_particles": (p.Pick, set(), {"client"}),
    "extract_particles": (p.Extract, set(), {"client"}),
    "refine": (p.Refine, {"reference"}, {"client", "store", "on_iteration"}),
    "postprocess": (p.Postprocess, set(), {"pixel_size"}),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fields_are_the_functions_parameters(name: str) -> None:
    import cryoflow

    model, own, left_out = FUNCTIONS[name]
    parameters = inspect.signature(getattr(cryoflow, name)).parameters
    keywords = {n for n, q in parameters.items() if q.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(model.model_fields) - own == keywords - left_out
    for field in set(model.model_fields) - own:
        info, default = model.model_fields[field], parameters[field].default
        if info.default is not None and not info.is_required() and default is not inspect.Parameter.empty:
            assert info.default == default, f"{name}.{field}: {info.default} here, {default} in the function"


# --- files, before anything starts -----------------------------------------------------------------------------------


def micrograph(path: Path, pixel_size: float = 1.5) -> None:
    from cryoflow.io import write_map

    path.parent.mkdir(parents=True, exist_ok=True)
    write_map(path, np.random.default_rng(0).standard_normal((256, 256)).astype("f4"), pixel_size=pixel_size)


def volume(path: Path, box: int = 128, pixel_size: float = 1.5) -> None:
    from cryoflow.io import write_map

    write_map(path, np.zeros((box, box, box), np.float32), pixel_size=pixel_size)


ATOM = "ATOM      1  CA  ALA A   1      11.000   2.000   3.000  1.00 20.00           C\n"


def test_every_name_becomes_absolute(tmp_path: Path) -> None:
    micrograph(tmp_path / "micrographs/a.mrc")
    volume(tmp_path / "map.mrc")
    w = check_files(load_workflow(chain()), root=tmp_path)
    assert w.refine is not None
    assert w.micrographs is not None
    assert w.refine.reference == str(tmp_path / "map.mrc")
    assert w.micrographs.path == str(tmp_path / "micrographs/*.mrc")


def test_a_broken_mtf_file_ends_before_the_run(tmp_path: Path) -> None:
    micrograph(tmp_path / "micrographs/a.mrc")
    volume(tmp_path / "map.mrc")
    (tmp_path / "mtf.star").write_text("data_\n\nloop_\n_rlnSomething #1\n0.5\n")
    with pytest.raises(CryoflowError, match="rlnMtfValue"):
        check_files(load_workflow(chain(postprocess={"mtf": "mtf.star"})), root=tmp_path)


def test_sizes_and_masks_that_cannot_be_end_before_the_run(tmp_path: Path) -> None:
    from cryoflow.io import write_map

    micrograph(tmp_path / "micrographs/a.mrc")  # 256 pixels of 1.5 A
    volume(tmp_path / "map.mrc")
    with pytest.raises(ParameterError, match=r"extract\.box: expected at most .* 256 pixels; found 300"):
        check_files(load_workflow(chain(extract={"box": 300})), root=tmp_path)
    with pytest.raises(ParameterError, match=r"pick\.diameter: expected at most .* 384 A; found 1300 A"):
        check_files(load_workflow(chain(pick={"diameter": 1300})), root=tmp_path)
    write_map(tmp_path / "mask.mrc", np.full((128, 128, 128), 5, np.float32), pixel_size=1.5)
    for stage in ("refine", "postprocess"):
        with pytest.raises(ParameterError, match=rf"{stage}\.mask: expected values between 0 and 1.*found 5 to 5"):
            check_files(load_workflow(chain(**{stage: {"mask": "mask.mrc"}})), root=tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"micrographs\.path.*none for"):
        check_files(load_workflow(chain()), root=tmp_path)
    micrograph(tmp_path / "micrographs/a.mrc")
    with pytest.raises(ParameterError, match=r"refine\.reference: expected an existing file"):
        check_files(load_workflow(chain()), root=tmp_path)
    with pytest.raises(ParameterError, match=r"6z6u\.pdb or \.cif in one of .*models"):
        check_files(load_workflow(chain(refine={"reference": "pdb:6z6u"})), root=tmp_path)
    with pytest.raises(ParameterError, match="--root"):
        check_files(load_workflow(chain()), root=tmp_path / "nowhere")


def test_a_reference_model_is_found_beside_the_data(tmp_path: Path) -> None:
    micrograph(tmp_path / "set/micrographs/a.mrc")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/6z6u.pdb").write_text(ATOM)
    w = check_files(load_workflow("EMPIAR-10146"), root=tmp_path / "set")
    assert w.refine is not None
    assert w.refine.reference == str(tmp_path / "models/6z6u.pdb")


def test_a_reference_that_cannot_be_used_is_refused_before_the_run(tmp_path: Path) -> None:
    micrograph(tmp_path / "micrographs/a.mrc")
    model = tmp_path / "model.pdb"
    model.write_text("")
    with pytest.raises(FormatError, match=r"model\.pdb: expected a model with atoms"):
        check_files(load_workflow(chain(refine={"reference": "model.pdb"})), root=tmp_path)
    model.write_text(ATOM + ATOM.replace("  11.000", " 511.000"))
    with pytest.raises(ParameterError, match="a model that fits the box"):
        check_files(load_workflow(chain(refine={"reference": "model.pdb"})), root=tmp_path)
    volume(tmp_path / "map.mrc")
    with (tmp_path / "map.mrc").open("r+b") as file:  # a header without a voxel size
        file.seek(40)
        file.write(bytes(12))
    with pytest.raises(ParameterError, match=r"refine\.reference: .*1\.5 A; found 0 A"):
        check_files(load_workflow(chain()), root=tmp_path)
    volume(tmp_path / "map.mrc")
    with pytest.raises(ParameterError, match=r"ini_high between 3\.00 and 96\.0 A"):
        check_files(load_workflow(chain(refine={"ini_high": 100.0})), root=tmp_path)


def test_micrographs_of_a_star_file_are_looked_at_and_followed(tmp_path: Path) -> None:
    from cryoflow.io import open_micrographs, write_micrographs
    from cryoflow.workflow.stages import STAGES

    micrograph(tmp_path / "micrographs/a.mrc")
    optics = {"pixel_size": 1.5, "voltage": 300, "cs": 2.7, "amplitude_contrast": 0.1}
    write_micrographs(open_micrographs([tmp_path / "micrographs/a.mrc"], **optics), tmp_path / "micrographs/all.star")
    volume(tmp_path / "map.mrc")
    w = check_files(load_workflow(chain(micrographs={"path": "micrographs/all.star"})), root=tmp_path)
    assert [p.name for p in STAGES["micrographs"].files(w)] == ["all.star", "a.mrc"]
    changed = {"path": "micrographs/all.star", "pixel_size": 3.0}
    with pytest.raises(ParameterError, match="pixel size"):
        check_files(load_workflow(chain(micrographs=changed)), root=tmp_path)


def test_a_wrong_pixel_size_is_refused_unless_trusted(tmp_path: Path) -> None:
    micrograph(tmp_path / "micrographs/a.mrc", pixel_size=3.0)
    volume(tmp_path / "map.mrc")
    with pytest.raises(ParameterError, match=r"micrographs\.pixel_size"):
        check_files(load_workflow(chain()), root=tmp_path)
    check_files(load_workflow(chain(micrographs={"trust_given": True})), root=tmp_path)


def test_a_reference_of_another_box_or_pixel_size_is_refused(tmp_path: Path) -> None:
    micrograph(tmp_path / "micrographs/a.mrc")
    volume(tmp_path / "map.mrc", box=64)
    with pytest.raises(ParameterError, match=r"refine\.reference: expected the particles' box, 128"):
        check_files(load_workflow(chain()), root=tmp_path)
    volume(tmp_path / "map.mrc", pixel_size=2.0)
    with pytest.raises(ParameterError, match=r"pixel size, 1\.5 A; found 2 A"):
        check_files(load_workflow(chain()), root=tmp_path)


def stack(folder: Path, **changes: Any) -> Path:
    """A small particle set on disk."""
    from cryoflow.io import write_particles

    n, box = changes.get("n", 6), 32
    rng = np.random.default_rng(1)
    ds = xr.Dataset(
        {
            "image": (("particle", "y", "x"), rng.standard_normal((n, box, box)).astype("f4")),
            "optics_group": ("particle", np.zeros(n, np.int32)),
            "defocus_u": ("particle", np.full(n, 15000.0)), "defocus_v": ("particle", np.full(n, 14000.0)),
            "defocus_angle": ("particle", np.zeros(n)),
            "pixel_size": ("optics", [3.0]), "voltage": ("optics", [300.0]), "cs": ("optics", [2.7]),
            "amplitude_contrast": ("optics", [0.1]),
        }
    ).drop_vars(changes.get("without", ()))  # fmt: skip
    write_particles(ds, folder / "particles.star", images=folder / "particles.mrcs")
    return folder / "particles.star"


def stack_workflow(folder: Path, **refine: Any) -> Workflow:
    volume(folder / "map.mrc", box=32, pixel_size=3.0)
    values = {"particles": {"path": "particles.star"}, "refine": {"diameter": 80, "reference": "map.mrc", **refine}}
    return load_workflow(values)


def test_a_stack_is_looked_at_before_the_run(tmp_path: Path) -> None:
    stack(tmp_path)
    w = check_files(stack_workflow(tmp_path), root=tmp_path)
    assert w.particles is not None
    assert w.particles.path == tmp_path / "particles.star"
    with pytest.raises(ParameterError, match=r"refine\.poses: expected poses"):
        check_files(stack_workflow(tmp_path, poses="local"), root=tmp_path)
    with pytest.raises(ParameterError, match=r"at most the box, 96 A"):
        check_files(stack_workflow(tmp_path, diameter=200), root=tmp_path)
    with (tmp_path / "particles.mrcs").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(FormatError, match="truncated"):
        check_files(stack_workflow(tmp_path), root=tmp_path)


def test_a_stack_without_defocus_is_refused(tmp_path: Path) -> None:
    stack(tmp_path, without=("defocus_u", "defocus_v", "defocus_angle"))
    with pytest.raises(ParameterError, match="rlnDefocusU"):
        check_files(stack_workflow(tmp_path), root=tmp_path)


def test_a_stack_of_one_half_set_is_refused(tmp_path: Path) -> None:
    stack(tmp_path)
    star = tmp_path / "particles.star"
    lines = star.read_text().splitlines()
    label = next(i for i, line in enumerate(lines) if line.startswith("_rlnOpticsGroup #") and i > 15)
    lines.insert(label + 1, "_rlnRandomSubset")
    star.write_text("\n".join(line + " 1" if "@" in line else line for line in lines))
    with pytest.raises(ParameterError, match=r"of half-set 1 alone\. Deal them out anew: cryoflow table .* --halves"):
        check_files(stack_workflow(tmp_path), root=tmp_path)


def test_a_file_of_another_program_is_told_the_way(tmp_path: Path) -> None:
    (tmp_path / "p.cs").write_bytes(b"x")
    with pytest.raises(ParameterError, match=r"cryoflow convert .*p\.cs p\.star"):
        load_workflow(tmp_path / "p.cs")


def test_a_stack_without_its_voltage_is_refused_or_told_it(tmp_path: Path) -> None:
    stack(tmp_path)
    star = tmp_path / "particles.star"
    star.write_text(star.read_text().replace("_rlnVoltage", "_rlnOther"))
    with pytest.raises(ParameterError, match=r"_rlnVoltage; found none\. Give it with --set particles\.voltage=VALUE"):
        check_files(stack_workflow(tmp_path), root=tmp_path)
    values = to_yaml(stack_workflow(tmp_path)).replace("trust_given", "voltage: 200\n  trust_given")
    (tmp_path / "w.yaml").write_text(values)
    check_files(load_workflow(tmp_path / "w.yaml"), root=tmp_path)


# --- digests ---------------------------------------------------------------------------------------------------------


def test_fingerprints_follow_content_and_not_dates(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    first = fingerprint([path])
    os.utime(path, (1, 1))
    assert fingerprint([path]) == first
    path.write_bytes(b"two")
    assert fingerprint([path]) != first


def test_large_files_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryoflow.workflow.digest.WHOLE", 1000)
    monkeypatch.setattr("cryoflow.workflow.digest.SAMPLE", 100)
    path = tmp_path / "a"
    path.write_bytes(bytes(10000))
    first = fingerprint([path])
    for where in (0, 9999, 9900):
        with path.open("r+b") as file:
            file.seek(where)
            file.write(b"\1")
        assert fingerprint([path]) != first
        path.write_bytes(bytes(10000))
    assert fingerprint([path]) == first


def test_code_digests_differ_by_room() -> None:
    assert code_digest("io") != code_digest("kernels")
    assert code_digest("io", "kernels") == code_digest("kernels", "io")
    assert digest({"a": 1}) != digest({"a": 2})


def test_the_meter_sees_children() -> None:
    code = (
        "b = bytearray(200_000_000)\nimport time\nend = time.process_time() + 1\nwhile time.process_time() < end: pass"
    )
    with Meter(interval=0.05) as meter:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert 0.7 < meter.cost.cpu_seconds < 2.5
    assert meter.cost.peak_memory_bytes > 200_000_000


# --- running ---------------------------------------------------------------------------------------------------------

CALLS: list[str] = []


def leaves(name: str) -> Callable[[Context], dict[str, Any]]:
    """A stage that notes that it ran and leaves one file."""

    def function(context: Context) -> dict[str, Any]:
        CALLS.append(name)
        (context.folder.path / f"{name}.txt").write_text(name)
        return {"particles": len(CALLS), "resolution": float("inf")}

    return function


SPECS = {
    "micrographs": StageSpec(leaves("micrographs"), (), ("io",), ("micrographs.txt",)),
    "ctf": StageSpec(leaves("ctf"), ("micrographs",), ("io",), ("ctf.txt",)),
    "pick": StageSpec(leaves("pick"), ("ctf",), ("io",), ("pick.txt",)),
    "extract": StageSpec(leaves("extract"), ("ctf", "pick"), ("io",), ("extract.txt",)),
    "refine": StageSpec(leaves("refine"), ("extract",), ("io",), ("refine.txt",)),
    "postprocess": StageSpec(leaves("postprocess"), ("refine",), ("io",), ("postprocess.txt",)),
    "report": StageSpec(leaves("report"), ("postprocess",), ("io",), ("report.txt",)),
}


def again(folder: Path, until: str | None = None, **changes: Any) -> list[str]:
    """Run the chain with noting stages; which of them ran."""
    CALLS.clear()
    place = RunFolder(folder)
    with open_run(place, echo=False, needed_bytes=0):
        run_stages(load_workflow(chain(**changes)), place, SPECS, until=until)
    return list(CALLS)


def test_finished_stages_are_skipped_and_changed_ones_redone(tmp_path: Path) -> None:
    assert again(tmp_path) == list(SPECS)
    assert again(tmp_path) == []
    assert again(tmp_path, pick={"diameter": 120}) == ["pick", "extract", "refine", "postprocess", "report"]
    assert again(tmp_path, pick={"diameter": 120}, report={"title": "x"}) == ["report"]
    (tmp_path / "refine.txt").unlink()
    assert again(tmp_path, pick={"diameter": 120}, report={"title": "x"}) == ["refine"]
    (tmp_path / "ctf.txt").write_text("cut short")
    assert again(tmp_path, pick={"diameter": 120}, report={"title": "x"}) == ["ctf"]


def test_until_stops_and_the_rest_follows_later(tmp_path: Path) -> None:
    assert again(tmp_path, until="pick") == ["micrographs", "ctf", "pick"]
    assert again(tmp_path) == ["extract", "refine", "postprocess", "report"]
    with pytest.raises(ParameterError, match="--until"):
        again(tmp_path, until="nothing")


def test_figures_and_the_workflow_as_run_are_written(tmp_path: Path) -> None:
    again(tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["stages"]) == list(SPECS)
    for stage in figures["stages"].values():
        assert {"cpu_seconds", "wall_seconds", "peak_memory_bytes"} <= set(stage)
        assert stage["resolution"] is None  # infinity is no JSON
    assert figures["peak_memory_bytes"] > 1e6
    assert load_workflow(tmp_path / "workflow.yaml") == load_workflow(chain())


def test_results_out_of_date_are_told_and_valid_ones_counted(tmp_path: Path) -> None:
    again(tmp_path)
    again(tmp_path, until="ctf")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["stages"]) == list(SPECS)  # all of them still hold
    assert "out_of_date" not in figures
    again(tmp_path, until="extract", pick={"diameter": 120})
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["stages"]) == ["micrographs", "ctf", "pick", "extract"]
    assert figures["out_of_date"] == ["refine", "postprocess", "report"]
    told = " ".join(warnings(RunFiles(tmp_path)))
    assert "Out of date: postprocess" in told
    assert "Out of date: report" not in told  # it is the one that tells


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from cryoflow.workflow import load_workflow
    from cryoflow.workflow.folder import RunFolder
    from cryoflow.workflow.runner import StageSpec, open_run, run_stages

    def refine(context):
        state = context.folder.path / "state.txt"
        done = state.read_text() if state.exists() else ""
        state.write_text(done + "x")
        if done == "":
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    place = RunFolder(sys.argv[1])
    values = {"particles": {"path": "p.star"}, "refine": {"diameter": 10, "reference": "r.mrc"}}
    values["refine"]["seed"] = int(sys.argv[2])
    nothing = StageSpec(lambda context: {})
    specs = {"particles": nothing, "postprocess": nothing, "report": nothing,
             "refine": StageSpec(refine, ("particles",), (), ("state.txt",), resumes=sys.argv[3] == "resumes")}
    with open_run(place, echo=False, needed_bytes=0):
        run_stages(load_workflow(values), place, specs)
"""


@pytest.mark.parametrize(
    ("kind", "seed", "left", "code"),
    [("resumes", 0, "xx", 0), ("resumes", 1, "x", -signal.SIGKILL), ("starts anew", 0, "x", -signal.SIGKILL)],
)
def test_a_killed_stage_resumes_only_with_the_same_parameters(
    tmp_path: Path, kind: str, seed: int, left: str, code: int
) -> None:
    def attempt(with_seed: int) -> int:
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(with_seed), kind]
        return subprocess.run(command, check=False).returncode

    assert attempt(0) == -signal.SIGKILL
    assert attempt(seed) == code
    assert (tmp_path / "state.txt").read_text() == left


# --- the folder ------------------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    place = RunFolder(tmp_path)
    with (
        open_run(place, echo=False, needed_bytes=0),
        pytest.raises(ResourceError, match=f"no other run.*process {os.getpid()}"),
        open_run(RunFolder(tmp_path), echo=False, needed_bytes=0),
    ):
        pass
    with open_run(place, echo=False, needed_bytes=0):
        pass


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "stores").mkdir(parents=True)  # empty: in nobody's way
    (other / "workflow.yaml").write_text("services: {}")
    with pytest.raises(ParameterError, match=r"new folder.*workflow\.yaml in it, which the run would replace"):
        run("demo", output=other)
    assert (other / "workflow.yaml").read_text() == "services: {}"
    (other / "workflow.yaml").unlink()
    (other / "map.mrc").write_text("of somebody")
    with pytest.raises(ParameterError, match=r"map\.mrc"):
        RunFolder(other).claim(["map.mrc", "stores/a.zarr"], "simulate")
    RunFolder(other).claim(["half1.mrc"], "simulate")  # other files may lie beside


def test_a_run_from_another_source_is_not_replaced(tmp_path: Path) -> None:
    again(tmp_path)
    RunFolder(tmp_path).claim(["pick.txt"], "micrographs")
    (tmp_path / ".lock").unlink()  # as in a copy without hidden files: its records tell
    RunFolder(tmp_path).claim(["pick.txt"], "micrographs")
    with pytest.raises(ParameterError, match="a run from particles; found a run from micrographs"):
        RunFolder(tmp_path).claim(["pick.txt"], "particles")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a folder that can be written"):
        RunFolder(tmp_path / "file/run").prepare()


def test_a_full_disk_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"1000000.0 TB of free disk for this run; found [0-9.]+ [A-Z]+"):
        RunFolder(tmp_path).prepare(needed_bytes=10**18)


def test_nothing_outside_the_folder_is_removed(tmp_path: Path) -> None:
    (tmp_path / "keep").write_text("")
    place = RunFolder(tmp_path / "run")
    place.prepare()
    for name in ("../keep", ".", str(tmp_path / "keep")):
        with pytest.raises(ResourceError, match="inside"):
            place.discard((name,))
    assert (tmp_path / "keep").exists()


def test_run_takes_one_kind_of_cluster() -> None:
    with pytest.raises(ParameterError, match="client or cluster"):
        run("demo", output="x", client=object(), cluster="local:2")
    with pytest.raises(ParameterError, match="--cluster local:2"):
        run("demo", output="x", performance_report=Path("r.html"))


def test_what_the_call_itself_says_is_checked_before_the_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="--until"):
        run("demo", output=tmp_path / "x", until="nothing")
    with pytest.raises(ParameterError, match="connect"):
        run("demo", output=tmp_path / "x", cluster="moon")
    assert not (tmp_path / "x").exists()


# --- a whole run from a stack ----------------------------------------------------------------------------------------


def test_a_stack_of_noise_runs_to_its_report_and_claims_nothing(tmp_path: Path) -> None:
    import cryoflow

    protein = cryoflow.procedural_protein(symmetry="D2", box=32, pixel_size=3.0, size=60)
    cryoflow.write_map(tmp_path / "reference.mrc", protein)
    stack(tmp_path, n=60)
    refine = {"diameter": 80, "reference": "reference.mrc", "symmetry": "D2", "ini_high": 20, "order": 1, "limit": 2}
    values = {"particles": {"path": "particles.star"}, "refine": refine}
    figures = run(values, root=tmp_path, output=tmp_path / "run")
    assert list(figures["stages"]) == ["particles", "refine", "postprocess", "report"]
    assert figures["resolution"] is None or figures["resolution"] >= 20
    text = (tmp_path / "run/report.html").read_text()
    assert "no resolution" in text
    if figures["resolution"] is None:  # the page does not name what the figures refuse
        assert "<b>none</b>" in text
    made = cryoflow.provenance(tmp_path / "run/stores/poses.zarr")["inputs"]
    assert [Path(source["name"]).name for source in made] == ["imported.zarr", "reference.mrc"]
    for name in ("particles.star", "half1.mrc", "half2.mrc", "map.mrc", "map_sharpened.mrc", "mask.mrc", "fsc.csv",
                 "workflow.yaml", "figures.json", "stores/poses.zarr", "stores/postprocess.zarr"):  # fmt: skip
        assert (tmp_path / "run" / name).exists(), name
    with_poses = cryoflow.read_particles(tmp_path / "run/particles.star")
    assert with_poses.sizes["particle"] == 60
    assert {"rotation", "half"} <= set(with_poses.variables)

    # its own result enters again, with poses
    values = {"particles": {"path": "run/particles.star"}, "refine": {**refine, "poses": "fixed"}}
    again = run(values, root=tmp_path, output=tmp_path / "fixed", until="refine")
    assert again["stages"]["particles"]["with_poses"]
    kept = cryoflow.open_store(tmp_path / "fixed/stores/poses.zarr")
    np.testing.assert_allclose(kept["rotation"].values, with_poses["rotation"].values, atol=1e-5)
    np.testing.assert_array_equal(kept["half"].values, with_poses["half"].values)


def test_a_raised_limit_goes_on_where_the_refinement_ended(tmp_path: Path) -> None:
    """The same bits as a refinement that had the higher limit from its start, without its first iterations."""
    from cryoflow.io import read_map, write_map, write_particles
    from cryoflow.simulate import simulate_particles

    particles, truth = simulate_particles(n=24, box=24, pixel_size=9.0, symmetry="D2", snr=1.0, seed=1)
    write_particles(particles, tmp_path / "p.star", images=tmp_path / "p.mrcs")
    write_map(tmp_path / "r.mrc", truth["map"].values, pixel_size=9.0)
    refine = {"reference": "r.mrc", "symmetry": "D2", "diameter": 150, "ini_high": 60, "order": 0}

    def refined(folder: str, limit: int) -> tuple[list[int], Any]:
        workflow = load_workflow({"particles": {"path": "p.star"}, "refine": {**refine, "limit": limit}})
        run(workflow, output=tmp_path / folder, root=tmp_path, until="refine")
        history = json.loads((tmp_path / folder / "iterations.json").read_text())
        return [record["wall_seconds"] for record in history], read_map(tmp_path / folder / "half1.mrc").values

    first, early = refined("a", 2)
    further, half = refined("a", 4)
    assert len(first) == 3
    assert len(further) == 5  # the last one joins all data
    assert further[:2] == first[:2]  # not done again
    assert further[2] != first[2]  # which had joined all data too early
    _, at_once = refined("b", 4)
    np.testing.assert_array_equal(half, at_once)
    assert not np.array_equal(half, early)
    lowered, again = refined("a", 2)  # goes on with nothing: begins anew
    assert lowered != first
    np.testing.assert_array_equal(again, early)
