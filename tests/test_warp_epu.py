"""Warp's and EPU's XML: units, selection, grids, exposure groups, hostile documents."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from fuzz_harness import fuzz, on_file
from numpy.typing import NDArray
from test_cli import command

from cryoflow.errors import FormatError, ParameterError
from cryoflow.io.formats import detect
from cryoflow.io.micrographs import write_micrographs
from cryoflow.io.programs.epu import assign_exposure_groups, read_epu
from cryoflow.io.programs.groups import cluster
from cryoflow.io.programs.warp import read_warp, read_warp_grid, write_warp_selection
from cryoflow.io.programs.xml_events import read_xml
from cryoflow.io.star.star import read_star
from cryoflow.workflow.inspection import inspect_data

BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "xxxx"><!ENTITY y "&x;&x;&x;&x;&x;">]><Movie>&y;</Movie>'


def warp_xml(
    defocus: float = 1.5, *, manual: str = "null", by_filter: bool = False, ctf: bool = True, extra: str = ""
) -> str:
    parameters = {
        "PixelSize": 1.25, "PixelSizeDelta": 0, "PixelSizeAngle": 0, "Cs": 2.7, "Voltage": 300, "Defocus": defocus,
        "DefocusDelta": 0.08, "DefocusAngle": 30, "Amplitude": 0.07, "Bfactor": 0, "Scale": 1, "PhaseShift": 0.5,
    }  # fmt: skip
    lines = "".join(f'\t\t<Param Name="{k}" Value="{v}" />\n' for k, v in parameters.items())
    nodes = "".join(
        f'\t\t<Node X="{x}" Y="{y}" Z="0" Value="{defocus + 0.01 * (2 * y + x)}" />\n' for y in (0, 1) for x in (0, 1)
    )
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<Movie UnselectFilter="{by_filter}" UnselectManual="{manual}" '
        'CTFResolutionEstimate="4.25" MeanFrameMovement="0.31" MaskPercentage="-1">\n'
        "\t<PS1D>0|1;0.1|2</PS1D>\n"
        + (f"\t<CTF>\n{lines}{extra}\t</CTF>\n" if ctf else "")
        + f'\t<GridCTF Width="2" Height="2" Depth="1">\n{nodes}\t</GridCTF>\n</Movie>\n'
    )


def epu_xml(shift: tuple[float, float] = (0.1, -0.2), *, dose: str = "4.0E+21", pixel: str = "8.5E-11") -> str:
    """What published files of EPU hold, written by hand."""
    fei = "http://schemas.datacontract.org/2004/07/Fei."
    tag = "a:KeyValueOfstringanyType"
    pair = f"<{tag}><a:Key>{{}}</a:Key><a:Value i:type='b:double'>{{}}</a:Value></{tag}>"
    return (
        f'<MicroscopeImage xmlns="{fei}SharedObjects" xmlns:i="http://www.w3.org/2001/XMLSchema-instance">'
        '<CustomData xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays" xmlns:b="b">'
        + pair.format("DetectorCommercialName", "K3") + pair.format("Dose", dose)
        + pair.format("AppliedDefocus", "-1.5E-06")
        + f"</CustomData><SpatialScale><pixelSize><x><numericValue>{pixel}</numericValue></x><y><numericValue>{pixel}"
        "</numericValue></y></pixelSize></SpatialScale><microscopeData><acquisition><acquisitionDateTime>"
        "2024-01-02T03:04:05.678+01:00</acquisitionDateTime><camera><ExposureTime>2.5</ExposureTime></camera>"
        "</acquisition><gun><AccelerationVoltage>300000</AccelerationVoltage></gun><optics>"
        f'<BeamShift xmlns:a="{fei}Types"><a:_x>{shift[0]}</a:_x><a:_y>{shift[1]}</a:_y></BeamShift>'
        f'<BeamTilt xmlns:a="{fei}Types"><a:_x>0.01</a:_x><a:_y>0.02</a:_y></BeamTilt><Defocus>-2E-06</Defocus>'
        "<TemMagnification><NominalMagnification>105000</NominalMagnification></TemMagnification></optics>"
        "<stage><Position><A>0</A><B>0</B><X>1E-05</X><Y>2E-05</Y><Z>-3E-05</Z></Position></stage>"
        "</microscopeData></MicroscopeImage>"
    )  # fmt: skip


def session(folder: Path, shifts: NDArray[np.float64], areas: NDArray[np.int64]) -> None:
    (folder / "Data").mkdir(parents=True)
    for i, (shift, area) in enumerate(zip(shifts, areas, strict=True)):
        name = f"FoilHole_{1000 + i // 4}_Data_{200 + area}_{area}_20240102_{30000 + i}.xml"
        (folder / "Data" / name).write_text(epu_xml((float(shift[0]), float(shift[1]))))


def test_warp_units(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(warp_xml(extra='<Param Name="BeamTilt" Value="0.25, -0.5" />'))
    (tmp_path / "b.xml").write_text(warp_xml(2.0, manual="True"), encoding="utf-16")
    (tmp_path / "c.xml").write_text(warp_xml(by_filter=True))
    (tmp_path / "d.xml").write_text(warp_xml(by_filter=True, manual="False"))
    (tmp_path / "e.xml").write_text(warp_xml(ctf=False))
    ds = read_warp(tmp_path)
    assert ds.micrograph_name.values.tolist() == [f"average/{n}.mrc" for n in "abcde"]
    assert ds.usable.values.tolist() == [True, False, False, True, False]
    assert [bool(reason) for reason in ds.reason.values] == [False, True, True, False, True]
    np.testing.assert_allclose(ds.defocus_u[:2], [15400, 20400])
    np.testing.assert_allclose(ds.defocus_v[:2], [14600, 19600])
    assert ds.defocus_angle.values[0] == 30
    assert ds.phase_shift.values[0] == 90
    assert (ds.pixel_size[0], ds.voltage[0], ds.cs[0], ds.amplitude_contrast[0]) == (1.25, 300, 2.7, 0.07)
    assert ds.beam_tilt.values[ds.optics_group.values[0]].tolist() == [0.25, -0.5]
    assert ds.ctf_resolution.values[0] == 4.25
    assert detect(tmp_path / "a.xml").name == detect(tmp_path / "b.xml").name == "warp"


def test_warp_to_relion(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(warp_xml())
    write_micrographs(read_warp(tmp_path), tmp_path / "m.star")
    row = read_star(tmp_path / "m.star")["micrographs"].iloc[0]
    assert (row.rlnMicrographName, row.rlnDefocusU, row.rlnPhaseShift) == ("average/a.mrc", 15400.0, 90.0)


def test_warp_grids(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(warp_xml(1.0))
    np.testing.assert_allclose(read_warp_grid(tmp_path / "a.xml"), [[[1.0, 1.01], [1.02, 1.03]]])
    with pytest.raises(FormatError, match="GridMovementX"):
        read_warp_grid(tmp_path / "a.xml", "GridMovementX")
    (tmp_path / "b.xml").write_text(warp_xml(1.0).replace('Depth="1"', 'Depth="1000000"'))
    with pytest.raises(FormatError, match="nodes"):
        read_warp_grid(tmp_path / "b.xml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_selection_returns_to_warp(tmp_path: Path, encoding: str) -> None:
    def content(**options: str) -> str:
        return warp_xml(**options).replace("utf-8", encoding)  # type: ignore[arg-type]

    for name in "ab":
        (tmp_path / f"{name}.xml").write_text(content(), encoding=encoding)
    ds = read_warp(tmp_path)
    ds["usable"] = ("micrograph", [True, False])
    assert write_warp_selection(ds) == 1
    assert read_warp(tmp_path).usable.values.tolist() == [True, False]
    changed = (tmp_path / "b.xml").read_text(encoding=encoding)
    assert changed == content(manual="True")  # nothing else
    ds["usable"] = ("micrograph", [True, True])
    assert write_warp_selection(ds) == 1
    assert read_warp(tmp_path).usable.values.tolist() == [True, True]


def test_epu_units(tmp_path: Path) -> None:
    path = tmp_path / "FoilHole_11_Data_22_0_20240102_030405.xml"
    path.write_text(epu_xml())
    (tmp_path / (path.stem + "_Fractions.mrc")).touch()
    ds = read_epu(path, cs=2.7, amplitude_contrast=0.1)
    assert ds.micrograph_name.item() == path.stem + "_Fractions.mrc"
    assert ds.pixel_size.item() == pytest.approx(0.85)
    assert (ds.voltage.item(), ds.cs.item(), ds.amplitude_contrast.item()) == (300, 2.7, 0.1)
    assert ds.exposure.item() == pytest.approx(40.0)
    assert ds.x_applied_defocus.item() == pytest.approx(-15000)
    assert (ds.x_beam_shift_x.item(), ds.x_beam_shift_y.item()) == (0.1, -0.2)
    assert (ds.x_foil_hole.item(), ds.x_template_area.item()) == ("11", "22")
    assert ds.x_time.item().startswith("2024-01-02T03:04:05")
    assert ds.x_stage_z.item() == -3e-5
    assert detect(path).name == "epu"


def test_a_session_is_told_by_its_files(tmp_path: Path) -> None:
    """A folder of EPU's XML files is EPU's, with the command that reads it; one with images is micrographs."""
    session(tmp_path, np.zeros((4, 2)), np.arange(4))
    assert detect(tmp_path).name == "epu"
    found = inspect_data(tmp_path)
    assert found.title == "session of EPU"
    words = shlex.split(found.command.replace("MM", "2.7").replace("FRACTION", "0.1"))
    assert words[:2] == ["cryoflow", "convert"]
    done = command(*words[1:], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(read_star(tmp_path / "micrographs.star")["micrographs"]) == 4
    (tmp_path / "Data" / "a.mrc").write_bytes(b"")
    assert detect(tmp_path / "Data").name == "micrographs"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "FoilHole_1_Data_2_3.xml").write_text("<Movie/>")
    assert detect(tmp_path / "other").name == "micrographs"


@pytest.mark.parametrize("count", [None, 9])
def test_exposure_groups_of_a_template(tmp_path: Path, count: int | None) -> None:
    """Nine beam shifts on a skewed grid, with jitter: the groups are those of the grid, whatever the order."""
    rng = np.random.default_rng(8)
    grid = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ np.array([[0.11, 0.02], [-0.03, 0.1]])
    area = rng.permutation(np.repeat(np.arange(9), 8))
    session(tmp_path, grid[area] + rng.normal(0, 0.002, (72, 2)), area)
    (tmp_path / "Data" / "FoilHole_1_Data_2_3_4_5_Fractions.xml").write_text("not one of EPU's images")
    ds = read_epu(tmp_path, count=count)
    by_name = read_epu(tmp_path, groups="template")
    assert ds.sizes["optics"] == by_name.sizes["optics"] == 9
    pairs = set(zip(ds.optics_group.values.tolist(), by_name.x_template_area.values.tolist(), strict=True))
    assert len(pairs) == 9  # one to one
    middle = int(np.argmin(np.hypot(ds.x_beam_shift_x.values, ds.x_beam_shift_y.values)))
    assert ds.optics_group.values[middle] == 0  # numbered from the middle
    assert read_epu(tmp_path, groups="none").sizes["optics"] == 1
    assert assign_exposure_groups(ds, groups="none").sizes["optics"] == 9  # only splits


def test_one_beam_shift_is_one_group(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    session(tmp_path, rng.normal(0, 0.001, (12, 2)), np.zeros(12, int))
    assert read_epu(tmp_path).sizes["optics"] == 1
    with pytest.raises(ParameterError, match="1 to 12"):
        read_epu(tmp_path, count=13)


def test_clusters_of_random_grids() -> None:
    rng = np.random.default_rng(21)
    for _ in range(100):
        rows, columns = rng.integers(1, 6, 2)
        truth = np.repeat(np.arange(rows * columns), rng.integers(3, 12))
        grid = np.array([(i, j) for i in range(rows) for j in range(columns)], float) * rng.uniform(0.5, 2, 2)
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (grid[truth] + rng.uniform(-0.03, 0.03, (len(truth), 2))) @ turn * 10 ** rng.uniform(-3, 3)
        order = rng.permutation(len(points))
        for count in (None, rows * columns):
            found = cluster(points[order], count)
            assert len(set(zip(found.tolist(), truth[order].tolist(), strict=True))) == rows * columns
            np.testing.assert_array_equal(cluster(points, count)[order], found)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (BOMB, "DOCTYPE"),
        ("<Movie><CTF>", "line 1"),
        ("", "well-formed"),
        ("<Movie>" + "<a>" * 100 + "</a>" * 100 + "</Movie>", "levels"),
        ("<Other/>", "Movie"),
        (warp_xml().replace('"1.5"', '"wide"'), "Defocus"),
        (warp_xml(ctf=False), "CTF"),
        ('<?xml version="1.0" encoding="no-such"?><Movie/>', "XML"),
    ],
)
def test_damaged_warp_files_are_named(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "bad.xml").write_text(content)
    with pytest.raises(FormatError, match=told) as caught:
        read_warp(tmp_path / "bad.xml")
    assert "bad.xml" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (BOMB.replace("Movie", "MicroscopeImage"), "DOCTYPE"),
        (epu_xml(pixel="0"), "pixel size"),
        (epu_xml().replace("300000", ""), "voltage"),
        (epu_xml().replace("300000", "many"), "AccelerationVoltage"),
        (epu_xml(dose="nan"), "Dose"),
        (warp_xml(), "MicroscopeImage"),
    ],
)
def test_damaged_epu_files_are_named(tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "FoilHole_1_Data_2_3_4.xml"
    path.write_text(content)
    with pytest.raises(FormatError, match=told) as caught:
        read_epu(path)
    assert path.name in str(caught.value)


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="FoilHole"):
        read_epu(tmp_path)
    with pytest.raises(ParameterError, match=r"\.xml"):
        read_warp(tmp_path)
    path = tmp_path / "image.xml"
    path.write_text(epu_xml().replace("BeamShift", "Other"))
    with pytest.raises(ParameterError, match="template"):
        read_epu(path)
    with pytest.raises(ParameterError, match="FoilHole"):
        read_epu(path, groups="template")
    assert read_epu(path, groups="none").sizes["micrograph"] == 1


def test_streamed_xml_keeps_only_what_is_asked_for() -> None:
    raw = b"<a>" + b"<b x='1'/>" * 1000 + b"<c>text <d/>more</c></a>"
    items = read_xml(raw, "x", lambda path: path[-1] == "c")
    assert [(i.path, i.text) for i in items] == [(("a", "c"), "text more")]


def fuzz_xml(cases: int, folder: Path) -> None:
    words = [b"<!DOCTYPE a>", b"<![CDATA[", b"&#0;", b"&lt;", b"</", b"<a>", b"\xff\xfe"]
    for read, seed, part in ((read_warp, warp_xml(), "io/programs/warp"), (read_epu, epu_xml(), "io/programs/epu")):
        report = fuzz(on_file(read, ".xml", folder), [seed.encode()], cases, seed=6, words=words, cover=[part])
        assert report.accepted
        assert report.refused


def test_fuzz(tmp_path: Path) -> None:
    fuzz_xml(200, tmp_path)


@pytest.mark.slow
def test_fuzz_long(tmp_path: Path) -> None:
    fuzz_xml(10_000, tmp_path)
