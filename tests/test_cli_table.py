"""``cryoflow table`` as a user types it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_cli import command
from test_tables import lazy_set

from cryoflow.io.particles import read_particles
from cryoflow.io.star.star import read_star
from cryoflow.io.stores.store import open_store


@pytest.fixture
def star(tmp_path: Path) -> Path:
    lazy_set(tmp_path)
    return tmp_path / "p.star"


def table(*words: object) -> str:
    done = command("table", *map(str, words))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_operations_happen_in_their_order(star: Path) -> None:
    out = star.with_name("o.star")
    ds = read_particles(star, images=False)
    table(star, "--head", 30, "--sort", "-defocus_u", "--head", 10, "-o", out)
    expected = np.sort(ds.defocus_u.values[:30])[::-1][:10]
    np.testing.assert_allclose(read_particles(out, images=False).defocus_u, expected)
    table(star, "--sort", "-defocus_u", "--head", 30, "--set", "defocus_u = -defocus_u", "--sort=-defocus_u", "-o", out,
          "--overwrite")  # fmt: skip
    np.testing.assert_allclose(-read_star(out)["particles"].rlnDefocusU, np.sort(np.sort(ds.defocus_u)[::-1][:30]))


def test_a_whole_chain(star: Path) -> None:
    out = star.with_name("o.star")
    edit = ["--regex", "micrograph_name", r"job/m(\d)", r"k\1", "--set", "x_note = 'a'", "--rename", "x_note"]
    edit += ["x_remark", "--drop", "max_probability"]
    group = ["--expand", "D2", "--halves", "x_parent_id", "--renumber", "groups"]
    said = table(star, "--query", "half == 1", "--dedupe", 30, "--score", "max_probability", *group, *edit, "-o", out)
    rows = read_star(out)["particles"]
    assert said.strip() == f"{out}: {len(rows)} rows from 60 rows"
    assert len(rows) % 4 == 0
    assert set(rows.rlnMicrographName) <= {f"k{i}.mrc" for i in range(5)}
    assert (rows.groupby("parent_id").rlnRandomSubset.nunique() == 1).all()
    assert set(rows.remark) == {"a"}
    assert "rlnMaxValueProbDistribution" not in rows


def test_tables_of_two_files(star: Path) -> None:
    best, rest, both = (star.with_name(f"{n}.star") for n in ("best", "rest", "both"))
    table(star, "--query", "defocus_u > 14000", "-o", best)
    table(star, "--difference", best, "image_name", "-o", rest)
    said = table(best, "--merge", rest, "-o", both)
    assert "60 rows from" in said
    assert sorted(read_star(both)["particles"].rlnImageName) == sorted(read_star(star)["particles"].rlnImageName)
    again = star.with_name("again.star")
    table(both, "--set", "shift[0] = 0", "--join", star, "image_name:shift", "-o", again)
    ours = read_particles(again, images=False)
    theirs = read_particles(star, images=False)
    order = np.argsort(ours.image_name.values.astype(object))
    np.testing.assert_allclose(
        ours["shift"].values[order], theirs["shift"].values[np.argsort(theirs.image_name.values.astype(object))]
    )


def test_outputs(star: Path) -> None:
    folder = star.parent
    table(star, "--sample", "50%", "--seed", 3, "-o", folder / "o.zarr")
    stored = open_store(folder / "o.zarr")
    assert stored.image.shape == (30, 8, 8)
    table(star, "--sort", "-defocus_u", "--head", 5, "-o", folder / "o.star", "--images", folder / "o.mrcs")
    copied, source = read_particles(folder / "o.star"), read_particles(star)
    best = np.argsort(-source.defocus_u.values, kind="stable")[:5]
    np.testing.assert_array_equal(copied.image.values, source.image.values[best])
    table(star, "--split", 3, "-o", folder / "s.star")
    assert [len(read_star(folder / f"s_{i}.star")["particles"]) for i in (1, 2, 3)] == [20, 20, 20]
    table(star, "--split-by", "half", "-o", folder / "h.star")
    assert set(read_star(folder / "h_1.star")["particles"].rlnRandomSubset) == {1}
    table(star, "--subparticles", "D2", "10,0,5;0,0,9", "--recentre", "-o", folder / "r.star")
    parts = read_star(folder / "r.star")["particles"]
    assert len(parts) == 60 * (4 + 2)
    assert "rlnImageName" not in parts
    assert not parts.rlnOriginXAngst.any()


def test_files_that_exist_are_replaced_only_if_told(star: Path) -> None:
    """Neither the input, nor an earlier output, nor a stack of images that other tables point to."""
    folder = star.parent
    before = {p: p.read_bytes() for p in folder.iterdir()}
    stack = folder / "s0.mrcs"
    for words in (["-o", star], ["-o", folder / "new.star", "--images", stack]):
        done = command("table", str(star), "--head", "5", *map(str, words))
        assert done.returncode == 2
        assert "--overwrite" in done.stderr
    table(star, "--split", 3, "-o", folder / "s.star")
    assert command("table", str(star), "--split", "3", "-o", str(folder / "s.star")).returncode == 2
    assert {p: p.read_bytes() for p in before} == before
    assert table(star, "--head", 1, "-o", star, "--overwrite").strip() == f"{star}: 1 row from 60 rows"


def test_a_description_without_output(star: Path) -> None:
    said = table(star, "--view", "0,0,1", 60)
    assert " particles" in said.splitlines()[0]
    assert "  tilt" in said
    assert "image " not in said


def test_real_tables(data: Path, tmp_path: Path) -> None:
    source = data / "metadata" / "betagal_refine3d" / "run_it016_data.star"
    table(source, "--query", "rlnDefocusU < 10000 and tilt > 60", "--move-centre", "0,0,20", "-o", tmp_path / "o.star")
    whole, part = read_particles(source, images=False), read_particles(tmp_path / "o.star", images=False)
    assert 0 < part.sizes["particle"] < whole.sizes["particle"]
    assert part.attrs["star_columns"] == whole.attrs["star_columns"]
    np.testing.assert_allclose(part.odd_zernike, whole.odd_zernike)


def test_a_table_far_from_its_images_says_so(star: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names stay relative to their project; who writes elsewhere is told how to find the images from there."""
    near, far = star.parent / "below" / "o.star", tmp_path_factory.mktemp("far") / "o.star"
    near.parent.mkdir()
    for verb in (["table", str(star), "-o"], ["convert", str(star)]):
        assert command(*verb, str(near)).stderr == ""
        near.unlink()
        done = command(*verb, str(far))
        assert done.returncode == 0
        assert f"--root {star.parent}" in done.stderr
        assert "image" in read_particles(far, root=star.parent)
        far.unlink()
    assert command("table", str(star), "-o", str(far), "--images", str(far.with_suffix(".mrcs"))).stderr == ""


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--query", "defocs_u > 1"], 2, "Did you mean defocus_u?"),
        (["--query", "defocus_u > 1e9"], 2, "at least one particle"),
        (["--query"], 2, "--query needs CONDITION"),
        (["--regex", "micrograph_name", "a"], 2, "--regex needs COLUMN PATTERN NEW"),
        (["--sample", "many"], 2, "a whole number"),
        (["--slice", "5"], 2, "START:STOP"),
        (["--subparticles", "D2", "1,2"], 2, "three numbers"),
        (["--expand", "Q5"], 2, "point group"),
        (["--merge", "none.star"], 3, "an existing file"),
        (["--merge", "s0.mrcs"], 2, "the same columns"),
        (["--missing", "perhaps"], 2, "error, drop or fill"),
        (["--split", "3"], 2, "a file to write"),
        (["--nonsense", "3"], 2, "No such option"),
        (["-o", "o.xyz"], 2, "a suffix of a format that holds particles"),
    ],
)
def test_errors_end_with_one_line(star: Path, words: list[str], code: int, says: str) -> None:
    done = command("table", str(star), *words, folder=star.parent)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
