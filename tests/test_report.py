"""Figures, and the report of a run: complete, broken, empty and hostile."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from cryoflow.display.angles import direction_counts, draw_orientations, viewing_directions
from cryoflow.display.blocks import Missing
from cryoflow.display.fsc import draw_convergence, draw_fsc
from cryoflow.display.maps import draw_micrograph, draw_montage, draw_surfaces, render_surface
from cryoflow.display.report import SECTIONS, _section, report
from cryoflow.display.report_data import flagged_section
from cryoflow.display.report_map import iteration_table, map_section, orientation_section, resolution_section
from cryoflow.display.report_run import cards, warnings
from cryoflow.display.runfolder import RunFiles
from cryoflow.display.style import CYCLE, INK, figure_to_svg, new_figure, scale_bar, style
from cryoflow.errors import ParameterError, ResourceError
from cryoflow.kernels.masks import soft_sphere
from cryoflow.kernels.resolution import low_pass
from cryoflow.kernels.rotation import euler_to_matrix, random_rotations
from cryoflow.kernels.symmetry import point_group

TITLES = [title for _, title, _ in SECTIONS]


# --- figures ---


def test_viewing_direction_is_that_of_the_euler_angles():
    rot, tilt = np.radians(30.0), np.radians(70.0)
    expected = [np.cos(rot) * np.sin(tilt), np.sin(rot) * np.sin(tilt), np.cos(tilt)]
    np.testing.assert_allclose(viewing_directions(euler_to_matrix(30.0, 70.0, 11.0)[None])[0], expected, atol=1e-6)


def test_symmetric_directions_see_the_same_projection():
    group = point_group("D2")
    rotation = random_rotations(1, np.random.default_rng(0))
    expanded = viewing_directions(rotation, group)
    assert expanded.shape == (4, 3)
    direct = np.stack([viewing_directions(rotation @ g)[0] for g in group])
    np.testing.assert_allclose(expanded, direct, atol=1e-6)


def test_directions_are_counted_in_equal_areas():
    rotations = random_rotations(48 * 400, np.random.default_rng(1))
    counts = direction_counts(viewing_directions(rotations), level=1)
    assert counts.size == 48
    assert counts.sum() == 48 * 400
    assert abs(counts / 400 - 1).max() < 0.25  # 5 standard deviations of 400
    cap = rotations[rotations[:, 2, 2] > 0.9]
    assert np.mean(direction_counts(viewing_directions(cap), level=1) == 0) > 0.7


def test_orientation_figure_shows_where_there_is_nothing():
    rotations = random_rotations(2000, np.random.default_rng(2))
    with style():
        ax = new_figure(5, 3).add_subplot(projection="mollweide")
        draw_orientations(ax, rotations[rotations[:, 2, 2] > 0])
    values = np.asarray(ax.collections[0].get_array()).reshape(180, 360)
    assert values[:60].max() == 0  # tilts above 120 degrees
    assert values[120:].min() > 0
    assert values[120:].mean() == pytest.approx(2, rel=0.1)


def test_surface_of_a_ball_is_a_lit_disc():
    n, radius = 48, 14.0
    z, y, x = np.indices((n, n, n)) - n // 2
    distance = radius - np.sqrt(x**2 + y**2 + z**2)
    for axis in range(3):
        image = render_surface(distance, 0.0, axis)
        disc = np.hypot(*(np.indices((n, n)) - n // 2)) < radius
        assert np.mean((image[..., 3] > 0) == disc) > 0.99
        brightness = image[..., :3].sum(-1)
        assert brightness[n // 2 + 5, n // 2 - 5] > 1.3 * brightness[n // 2 - 9, n // 2 + 9]  # lit from the upper left
    with style():
        axes = new_figure(6, 2).subplots(1, 3)
        draw_surfaces(list(axes), distance.astype(np.float32), pixel_size=2.0, level=0.0)
    picture = np.asarray(axes[0].get_images()[0].get_array())
    assert 0.4 < (picture[..., 3] > 0.5).mean() < 0.8  # the ball fills the picture


def test_surfaces_show_the_hand_of_the_map():
    rng = np.random.default_rng(5)
    volume = low_pass(rng.normal(size=(32, 32, 32)).astype(np.float32), 1.0, 6.0)
    level = float(np.percentile(volume, 90))
    # turned, not mirrored, so that the view along y or x becomes the one along z, seen from +z with x right and y up
    turned = {1: np.moveaxis(volume, 1, 0)[::-1], 2: np.moveaxis(volume, 2, 0)}
    for axis, same in turned.items():
        axes = {1: [[1, 0, 0], [0, 0, 1], [0, -1, 0]], 2: [[0, 1, 0], [0, 0, 1], [1, 0, 0]]}[axis]
        assert np.linalg.det(axes) == pytest.approx(1)
        np.testing.assert_allclose(render_surface(volume, level, axis), render_surface(same, level), atol=1e-5)
        assert not np.allclose(render_surface(volume, level, axis), render_surface(same[::-1], level), atol=0.1)


def test_montage_places_images_row_by_row_on_their_own_scales():
    images = np.stack([np.linspace(0, k + 1, 64).reshape(8, 8) for k in range(5)])
    with style():
        ax = new_figure(3, 3).subplots()
        draw_montage(ax, images, columns=3)
    sheet = np.asarray(ax.get_images()[0].get_array().filled(np.nan))
    assert sheet.shape == (17, 26)
    np.testing.assert_allclose(sheet[:8, :8], sheet[9:, 9:17], atol=1e-6)
    assert np.isnan(sheet[9:, 18:]).all()
    assert sheet[7, 0] == 0  # an image begins at the lower left, as a micrograph does
    assert sheet[0, 7] == 1


def test_picks_are_circled_where_the_particles_are():
    micrograph = np.zeros((300, 420), dtype=np.float32)
    micrograph[100:111, 250:261] = 5  # about (x, y) = (255, 105)
    with style():
        ax = new_figure(4, 3).subplots()
        draw_micrograph(ax, micrograph, np.array([[255.0, 105.0]]), 20.0, pixel_size=1.5, size=200)
    picture = ax.get_images()[0]
    assert np.asarray(picture.get_array()).shape == (100, 140)
    left, right, bottom, top = picture.get_extent()
    y, x = np.unravel_index(np.asarray(picture.get_array()).argmax(), (100, 140))
    assert abs(left + (x + 0.5) * (right - left) / 140 - 255) <= 5
    assert abs(bottom + (y + 0.5) * (top - bottom) / 100 - 105) <= 5
    np.testing.assert_array_equal(ax.collections[0].get_offsets(), [[255, 105]])


@pytest.mark.parametrize(("width", "pixel", "label"), [(128, 1.5, "50 Å"), (4000, 1.0, "100 nm"), (100, 0.8, "20 Å")])
def test_scale_bar_is_round_and_true(width, pixel, label):
    with style():
        ax = new_figure(3, 3).subplots()
        ax.imshow(np.zeros((width, width)))
        scale_bar(ax, width, pixel)
    assert ax.texts[0].get_text() == label
    value, unit = label.split()
    x = ax.lines[0].get_xdata()
    assert (x[1] - x[0]) * pixel == pytest.approx(float(value) * (10 if unit == "nm" else 1))


def test_fsc_figure_marks_its_resolution():
    curve = np.linspace(1, -0.05, 33)
    with style():
        ax = new_figure(4, 3).subplots()
        draw_fsc(ax, {"corrected": curve}, box=64, pixel_size=1.5, resolution=3.69)
        draw_fsc(new_figure(4, 3).subplots(), {"corrected": curve}, box=64, pixel_size=1.5, resolution=np.inf)
    assert any("3.69" in t.get_text() for t in ax.texts)
    said = next(t for t in ax.texts if "3.69" in t.get_text())
    assert abs(said.get_position()[1] - np.interp(0.25, np.arange(33) / 96, curve)) > 0.1  # beside the curve, not on it
    positions = ax.get_xticks()
    labels = [1 / float(t.get_text()) for t in ax.get_xticklabels()]
    np.testing.assert_allclose(positions, labels, rtol=1e-6)


def test_convergence_starts_where_something_can_have_moved():
    records = [{"angle_change": 180.0, "shift_change": 0.9}, {"angle_change": 5.0, "shift_change": 0.4}]
    table = iteration_table(SimpleNamespace(iterations=records))
    assert table["change of angles (°)"][1:] == [5.0]
    assert np.isnan(table["change of angles (°)"][0])
    with style():
        axes = new_figure(5, 2).subplots(1, 2)
        draw_convergence(list(axes), {"poses": [2.0, 300.0, 40.0], "change (°)": table["change of angles (°)"]})
    assert [t.get_text() for t in axes[0].get_yticklabels()][1:4] == ["3", "10", "30"]  # numbers, not powers


def test_svg_follows_the_theme_and_shares_no_ids():
    texts = []
    for name in ("one", "one", "two"):
        with style():
            figure = new_figure(2, 2)
            figure.subplots().plot([0, 1], color=CYCLE[0])
            texts.append(figure_to_svg(figure, name))
    one, again, two = texts
    assert one == again
    assert INK not in one
    assert "currentColor" in one
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', one))
    assert used <= ids[0]


def test_nothing_is_drawn_at_import():
    code = "import sys, cryoflow.display.report; sys.exit(any(m in sys.modules for m in ('matplotlib', 'jinja2')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the report ---


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A small run's folder as the workflow leaves it: a noisy ball in two halves."""
    from cryoflow.io import save, write_map
    from cryoflow.postprocess import postprocess

    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    n, pixel = 32, 3.0
    ball = soft_sphere(n, 8, 2) * (1 + low_pass(rng.standard_normal((n, n, n)), 9.0, pixel))
    halves = ball + 0.3 * rng.standard_normal((2, n, n, n))
    ds = postprocess(*halves, pixel_size=pixel)
    for name, volume in (("half1", halves[0]), ("half2", halves[1]), ("map", halves.mean(0)), ("mask", ds["mask"]),
                         ("map_sharpened", ds["map_sharpened"])):  # fmt: skip
        write_map(folder / f"{name}.mrc", np.asarray(volume, dtype=np.float32), pixel_size=pixel)
    stores = folder / "stores"
    stores.mkdir()
    save(ds, stores / "postprocess.zarr", function="postprocess", parameters={})
    rotations = random_rotations(300, rng).astype(np.float32)
    save(xr.Dataset({"rotation": (("particle", "row", "col"), rotations)}), stores / "poses.zarr", function="refine",
         parameters={})  # fmt: skip
    images = rng.standard_normal((70, n, n)).astype(np.float32)
    images[0] = np.nan
    particles = {"image": (("particle", "y", "x"), images), "pixel_size": ("optics", [pixel])}
    save(xr.Dataset(particles), stores / "particles.zarr", function="extract_particles", parameters={})
    micrographs = {
        "micrograph_name": ("micrograph", np.array(["good.mrc", "bad<b>.mrc"])),
        "usable": ("micrograph", [True, False]),
        "reason": ("micrograph", np.array(["", "no Thon rings"])),
        "defocus_u": ("micrograph", [15000.0, np.nan]), "defocus_v": ("micrograph", [14500.0, np.nan]),
        "ctf_resolution": ("micrograph", [6.0, np.nan]), "pixel_size": ("optics", [1.5]),
    }  # fmt: skip
    save(xr.Dataset(micrographs), stores / "ctf.zarr", function="estimate_ctf", parameters={})
    for i in range(1, 4):
        iteration = stores / "refine" / f"iteration_{i:04d}"
        iteration.mkdir(parents=True)
        (iteration / "record.json").write_text(json.dumps({"iteration": i, "resolution_0143": 30.0 / i, "step": 7.5}))
    curves = {"shell": np.arange(n // 2 + 1), "frequency": ds["frequency"].values}
    curves |= {str(c): ds["fsc_curves"].sel(curve=c).values for c in ds["curve"].values}
    table = np.stack(list(curves.values()), 1)
    np.savetxt(folder / "fsc.csv", table, delimiter=",", header=",".join(curves), comments="")
    (folder / "workflow.yaml").write_text("name: a ball\nrefine: {symmetry: C1, ini_high: 60.0}\npostprocess: {}\n")
    stages = {"refine": {"cpu_seconds": 61.5, "wall_seconds": 40.0, "peak_memory_bytes": 3e8, "converged": True}}
    (folder / "figures.json").write_text(
        json.dumps({"stages": stages, "particles": 300, "cpu_seconds": 61.5, "cryoflow": "9.9"})
    )
    return folder


@pytest.fixture
def run_folder(complete, tmp_path):
    return shutil.copytree(complete, tmp_path / "run")


def section(page: str, key: str) -> str:
    start = page.index(f'<section id="{key}">')
    return page[start : page.index("</section>", start)]


def test_report_of_a_complete_run(run_folder):
    path = report(run_folder)
    assert path == run_folder / "report.html"
    page = path.read_text()
    assert "<h1>a ball</h1>" in page
    for key in ("map", "resolution", "orientations", "convergence", "particles"):
        assert "<svg" in section(page, key), key
    assert "1 min 2 s" in section(page, "stages")
    assert "300" in page
    assert "9.9" in page
    assert "no Thon rings" in section(page, "flagged")
    assert "59 of 70 particles" in section(page, "particles")  # the one of NaN is left out
    assert 'role="alert"' not in page
    assert not list(run_folder.glob(".report*"))


def test_page_stands_alone_and_escapes_what_files_say(run_folder):
    (run_folder / "workflow.yaml").write_text("name: '<script>alert(1)</script>'\nrefine: {symmetry: C1}\n")
    page = report(run_folder, output=run_folder / "elsewhere.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "bad<b>" not in page
    assert not re.search(r"<(?:link|iframe|object|embed)\b", page)
    targets = re.findall(r"""(?:href|src)\s*=\s*["']([^"']+)""", page) + re.findall(r"url\(([^)]+)\)", page)
    assert targets
    assert all(t.startswith(("#", "data:image/png;base64,")) for t in targets)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page


def test_every_section_of_an_empty_folder_says_so_in_a_line(tmp_path):
    page = report(tmp_path, title="nothing yet").read_text()
    for key, title, _ in SECTIONS:
        text = section(page, key)
        assert f"<h2>{title}</h2>" in text
        assert "<svg" not in text
        if key != "flagged":
            assert text.count('class="missing"') == 1, key
            assert "could not be made" not in text, text


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_files_cost_their_own_sections_at_most(run_folder, damage):
    for name in ("fsc.csv", "figures.json", "workflow.yaml"):
        path = run_folder / name
        content = path.read_bytes()
        broken = {"truncated": content[: len(content) // 2], "garbage": b"\xff\x00: [" * 50, "empty": b""}[damage]
        path.write_bytes(broken)
    run = RunFiles(run_folder)
    made = {key: _section(run, key, title, make) for key, title, make in SECTIONS if key not in {"map", "particles"}}
    assert made["orientations"].blocks
    assert made["convergence"].blocks
    assert made["stages"].missing == "figures.json, which tells what was run, is not there or cannot be read."
    if damage != "truncated":
        assert "fsc.csv" in made["resolution"].missing
    if damage == "garbage":
        assert {"fsc.csv", "figures.json", "workflow.yaml"} <= run.problems.keys()
    assert cards(run)
    assert warnings(run) == []


def test_a_damaged_map_is_named_and_the_other_shown(run_folder):
    (run_folder / "map_sharpened.mrc").write_bytes(b"no map")
    run = RunFiles(run_folder)
    blocks = map_section(run)
    assert blocks[-1].caption.startswith("map.mrc")
    assert "map_sharpened.mrc" in run.problems


def test_classes_and_excluded_particles_are_shown(run_folder):
    for i in (1, 2):
        shutil.copy(run_folder / "map.mrc", run_folder / f"class{i}.mrc")
    told = "12 particles set aside (NaN or blank image): 000003@stack.mrcs"
    figures = {"set_aside": 12, "warnings": [told, "another"]}
    (run_folder / "figures.json").write_text(json.dumps({"stages": {"refine": figures}}))
    run = RunFiles(run_folder)
    total = run.particles.sizes["particle"]
    numbers = np.where(np.arange(total) < 3, 1, 2)
    run.particles = run.particles.assign(class_number=("particle", numbers))
    *_, pictures, sizes = map_section(run)
    assert pictures.caption == "Maps of the classes."
    assert [row[:2] for row in sizes.rows] == [("class1", "3"), ("class2", f"{total - 3:,}")]
    assert ("refine", "12 particles", told) in flagged_section(run)[0].rows


def test_classes_have_no_fsc_and_the_page_says_why(tmp_path):
    (tmp_path / "workflow.yaml").write_text("refine: {classes: 3}\n")
    assert _section(RunFiles(tmp_path), "r", "Resolution", resolution_section).missing.startswith(
        "Several classes have"
    )


def test_an_incomplete_store_is_named(run_folder):
    shutil.rmtree(run_folder / "stores" / "poses.zarr")
    (run_folder / "stores" / "poses.zarr").mkdir()
    run = RunFiles(run_folder)
    with pytest.raises(Missing, match="no refined orientations"):
        orientation_section(run)
    assert [row[1] for row in flagged_section(run)[0].rows if row[0] == "unreadable"] == ["poses.zarr"]


def test_warns_where_the_map_is_no_better_than_its_reference(run_folder):
    (run_folder / "workflow.yaml").write_text("refine: {symmetry: C1, ini_high: 4.0}\n")
    found = warnings(RunFiles(run_folder))
    assert "No resolution better than the reference's filter" in found[0]
    said = "no resolution better than the reference's filter of 4 A"
    (run_folder / "figures.json").write_text(json.dumps({"stages": {"refine": {"warnings": [said]}}}))
    assert warnings(RunFiles(run_folder)) == [said.replace(" A", " Å")]


def test_warns_of_noise_and_passes_on_the_stages_warnings(tmp_path):
    from cryoflow.io import save
    from cryoflow.postprocess import postprocess

    noise = np.random.default_rng(3).standard_normal((2, 24, 24, 24))
    (tmp_path / "stores").mkdir()
    save(postprocess(*noise, pixel_size=2.0), tmp_path / "stores" / "postprocess.zarr", function="p", parameters={})
    stages = {"refine": {"warnings": ["7 particles hold NaN"], "converged": False, "cpu_seconds": 1.0}}
    (tmp_path / "figures.json").write_text(json.dumps({"stages": stages, "resolution": float("inf")}))
    page = report(tmp_path).read_text()
    alert = page[page.index('role="alert"') : page.index("<nav>")]
    for text in (
        "there is no signal in this map",
        "share no signal",
        "7 particles hold NaN",
        "before it had converged",
    ):
        assert text in alert
    assert "<b>none</b>" in page


def test_report_refuses_what_it_cannot_read_or_write(run_folder):
    with pytest.raises(ParameterError, match="report"):
        report(run_folder / "nowhere")
    with pytest.raises(ResourceError):
        report(run_folder, output=run_folder / "no" / "such" / "folder.html")
