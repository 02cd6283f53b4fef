"""STAR files: against the starfile package, RELION's own programs, and damaged files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoflow.errors import FormatError, ResourceError
from cryoflow.io.particles import read_particles
from cryoflow.io.star import star
from cryoflow.io.star.star import read_star, write_star

WHOLE = "data_optics\n\nloop_\n_rlnVoltage #1\n_rlnOpticsGroup #2\n300.0 1\n200.0 2\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "a.star"
    path.write_text(text)
    return path


def real_files(data: Path) -> list[Path]:
    return sorted(p for p in data.rglob("*.star") if p.stat().st_size < 3e6)


def test_all_real_files_agree_with_starfile(data: Path) -> None:
    files = real_files(data)
    assert len(files) >= 15
    for path in files:
        ours = read_star(path)
        theirs = starfile.read(path, always_dict=True)
        assert list(ours) == list(theirs), path
        for name, block in theirs.items():
            if isinstance(block, dict):
                assert ours[name].attrs["list"]
                for label, value in block.items():
                    assert _same(ours[name][label].iloc[0], value), (path, label)
                continue
            assert list(ours[name].columns) == list(block.columns), path
            for label in block:
                a, b = ours[name][label], block[label]
                if b.dtype.kind in "fi" and a.dtype.kind in "fi":
                    np.testing.assert_allclose(a, b, rtol=1e-14)
                else:
                    assert all(_same(x, y) for x, y in zip(a, b, strict=True)), (path, label)


def _same(a: object, b: object) -> bool:
    try:
        return float(a) == float(b) or (a != a and b != b)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(a) == str(b)


def test_all_real_files_round_trip(data: Path, tmp_path: Path) -> None:
    for path in real_files(data):
        first = read_star(path)
        write_star(tmp_path / "b.star", first)
        again = read_star(tmp_path / "b.star")
        assert list(first) == list(again)
        for name in first:
            for label, column in first[name].items():
                other = again[name][label]
                if column.dtype.kind == "f" and not first[name].attrs.get("list"):
                    np.testing.assert_allclose(other, column, rtol=1e-6, atol=5.1e-7)
                elif column.dtype.kind == "f":
                    np.testing.assert_allclose(other, column, rtol=1e-5)
                else:
                    assert (other == column).all(), (path, label)


def test_starfile_reads_what_we_write(tmp_path: Path) -> None:
    table = pd.DataFrame({"rlnDefocusU": [1.5, -2e-7, np.inf, 1e12], "rlnImageName": ["1@a.mrcs", "", "b c", "it's"]})
    write_star(tmp_path / "a.star", {"particles": table, "general": {"rlnN": 3, "rlnX": 0.25}})
    theirs = starfile.read(tmp_path / "a.star")
    np.testing.assert_allclose(theirs["particles"].rlnDefocusU, table.rlnDefocusU)
    assert theirs["general"] == {"rlnN": 3, "rlnX": 0.25}
    ours = read_star(tmp_path / "a.star")
    assert ours["particles"].rlnImageName.tolist() == table.rlnImageName.tolist()
    assert ours["general"].iloc[0].tolist() == [3, 0.25]


@pytest.mark.relion
def test_relion_reads_what_we_write(tmp_path: Path, relion_programs: Path) -> None:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"rlnDefocusU": rng.uniform(1, 4, 50) * 1e4, "rlnClassNumber": rng.integers(-5, 5000, 50)})
    table["rlnMicrographName"] = [f"folder {i}/mic.mrc" if i % 3 else f"mic{i}.mrc" for i in range(50)]
    table["rlnOpticsGroup"] = 1
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["a"], "rlnVoltage": [300.0],
                           "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
                           "rlnMicrographPixelSize": [1.5], "rlnMicrographOriginalPixelSize": [1.5]})  # fmt: skip
    write_star(tmp_path / "a.star", {"optics": optics, "micrographs": table})
    command = [relion_programs / "relion_star_handler", "--i", tmp_path / "a.star", "--o", tmp_path / "b.star"]
    subprocess.run([*command, "--select", "rlnDefocusU", "--minval", "1"], capture_output=True, check=True)
    theirs = starfile.read(tmp_path / "b.star")["micrographs"]
    np.testing.assert_allclose(theirs.rlnDefocusU, table.rlnDefocusU, rtol=1e-7)
    assert theirs.rlnClassNumber.tolist() == table.rlnClassNumber.tolist()
    assert theirs.rlnMicrographName.tolist() == table.rlnMicrographName.tolist()


def test_comments_quotes_blocks_without_names_and_names_that_look_like_numbers(tmp_path: Path) -> None:
    text = (
        "# made by hand\ndata_\n# a list\n_rlnA  1 # one\n_rlnB 'two words'\n\n"
        "data_x\r\nloop_\r\n_rlnMicrographName #1\n"
        '_rlnOther #2\n# between\n0001 "a b"  # trailing\n\n0002 "#c"\n\ndata_empty\nloop_\n_rlnZ\n'
    )
    blocks = read_star(write(tmp_path, text))
    assert list(blocks) == ["", "x", "empty"]
    assert blocks[""].iloc[0].tolist() == [1, "two words"]
    assert blocks["x"].rlnMicrographName.tolist() == ["0001", "0002"]
    assert blocks["x"].rlnOther.tolist() == ["a b", "#c"]
    assert len(blocks["empty"]) == 0
    assert list(blocks["empty"].columns) == ["rlnZ"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty file"),
        ("hello there\n", "at least one data_ block"),
        (WHOLE[:-4], "row 2 (line 7): expected 2 values; found 1"),  # truncated in the last row
        (WHOLE.replace("300.0 1", "300.0 1 7"), "row 1 (line 6): expected 2 values; found 3"),
        (WHOLE.replace("200.0 2", "200.0 2 7"), "row 2 (line 7): expected 2 values; found 3"),
        (WHOLE.replace("300.0 1", "300.0"), "row 1 (line 6): expected 2 values; found 1"),
        (WHOLE.replace("300.0 1\n200.0 2", "300.0\n200.0"), "row 1"),
        (WHOLE.replace("OpticsGroup", "Voltage"), "_rlnVoltage twice"),
        (WHOLE + WHOLE, "data_optics, line 8: expected one block of this name"),
        (WHOLE + "loop_\n_rlnC\n1\n", "expected 2 values; found 1"),
        ("data_x\n_rlnA\n", "a value of _rlnA"),
        ("data_x\nstray words\n", "expected a label, loop_ or a comment; found stray"),
        ("data_x\n_rlnA 1 2\n", "line 2: expected a label, loop_ or a comment; found 2"),
        ("data_x\nloop_\n_rlnC\n1\nloop_\n_rlnD\n", "row 2 (line 5): expected 1 values; found 'loop_'"),
        ("data_x\nloop_\n_rlnC\nloop_\n_rlnD\n1\n", "line 4: expected one loop_ or one list"),
        ("data_x\n_rlnA\n;never ends\n", "line 3: expected a line with ;"),
    ],
)
def test_damaged_files_say_where(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(FormatError) as error:
        read_star(path)
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_a_long_table_truncated_anywhere_names_its_row(tmp_path: Path) -> None:
    table = pd.DataFrame({"rlnA": np.arange(5000.0), "rlnImageName": [f"{i}@s.mrcs" for i in range(5000)]})
    write_star(tmp_path / "a.star", {"particles": table})
    raw = (tmp_path / "a.star").read_bytes()
    at = raw.index(b"3211.000000") + 8
    (tmp_path / "b.star").write_bytes(raw[:at])
    with pytest.raises(FormatError, match=r"row 3212 .*expected 2 values; found 1"):
        read_star(tmp_path / "b.star")


def test_text_of_several_lines_and_what_looks_like_other_things(tmp_path: Path) -> None:
    text = (
        "data_x\n_rlnRemark\n;two\n lines\n;\n_rlnN 3\ndata_y\nloop_ _rlnA _rlnRemark\n"
        "1\n;a\n;\n2 'loop_'\n3\n;\ndata_z\n; \n\"_x\" 4\n"
    )
    blocks = read_star(write(tmp_path, text))
    assert list(blocks) == ["x", "y"]
    assert blocks["x"].iloc[0].tolist() == ["two\n lines", 3]
    assert blocks["y"].rlnA.tolist() == ["1", "2", "3", "_x"]
    assert blocks["y"].rlnRemark.tolist() == ["a", "loop_", "\ndata_z", "4"]
    write_star(tmp_path / "b.star", blocks)
    again = read_star(tmp_path / "b.star")
    for name, block in blocks.items():
        pd.testing.assert_frame_equal(again[name], block)
    with pytest.raises(FormatError, match=r"row 2 \(line 8\)"):
        read_star(write(tmp_path, "data_\nloop_\n_rlnA\n_rlnB\n1\n;a\n;\n2\n"))


def test_empty_blocks_and_lists_of_numbers_keep_their_types(tmp_path: Path) -> None:
    blocks = read_star(write(tmp_path, "data_a\ndata_b\n_rlnN 3\n_rlnX 0.5\ndata_c\nloop_\ndata_d\nloop_\n_rlnA\n"))
    write_star(tmp_path / "b.star", blocks)
    again = read_star(tmp_path / "b.star")
    assert [list(b.columns) for b in again.values()] == [[], ["rlnN", "rlnX"], [], ["rlnA"]]
    assert [again["b"][label].dtype.kind for label in ("rlnN", "rlnX")] == ["i", "f"]


def test_comments_and_versions_stay_above_their_blocks(tmp_path: Path) -> None:
    text = "# RELION optimiser; version 4.0\n# --o Refine3D --i x\n\n# version 50001\n\ndata_a\n_rlnA 1\n\n# why\n"
    path = write(tmp_path, text + "data_b\nloop_\n_rlnB # the label\n#between\n2 # two\n# the end\n")
    blocks = read_star(path)
    assert blocks["a"].attrs["comments"] == ["# RELION optimiser; version 4.0", "# --o Refine3D --i x"]
    assert (blocks["a"].attrs["version"], blocks["b"].attrs["version"]) == (50001, 0)
    write_star(tmp_path / "b.star", blocks)
    again = read_star(tmp_path / "b.star")
    assert {n: b.attrs for n, b in again.items()} == {n: b.attrs for n, b in blocks.items()}
    assert (tmp_path / "b.star").read_text().count("# version") == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
def test_line_ends_tabs_and_a_missing_last_line_end(tmp_path: Path, end: str) -> None:
    text = "\ufeffdata_x\n\n loop_\n\t_rlnA\t#1\n_rlnMicrographName\n\t1\ta.mrc\t\n\n2 \v b.mrc"
    path = tmp_path / "a.star"
    path.write_bytes(text.replace("\n", end or "\n").encode() + end.encode())
    table = read_star(path)["x"]
    assert table.to_dict("list") == {"rlnA": [1, 2], "rlnMicrographName": ["a.mrc", "b.mrc"]}


def test_numbers_that_a_number_would_not_give_back_stay_text(tmp_path: Path) -> None:
    rows = "007 12345678901234567890 9223372036854775807 1_000 0x10 -0 +5 1e3 .5 inf 1.0\n"
    labels = "".join(f"_x{i}\n" for i in range(11))
    table = read_star(write(tmp_path, f"data_\nloop_\n{labels}{rows}"))[""]
    assert table.iloc[0].tolist() == ["007", "12345678901234567890", 2**63 - 1, "1_000", "0x10", 0, 5, 1000.0, 0.5,
                                      np.inf, 1.0]  # fmt: skip


odd_words = st.one_of(
    st.floats(width=64).map(repr),
    st.floats(width=64).map(lambda x: f"{x:.6f}"),
    st.integers(-(10**22), 10**22).map(str),
    st.from_regex(r"[+-]?[0-9]{0,24}\.?[0-9]{0,24}([eE][+-]?[0-9]{1,3})?", fullmatch=True).filter(bool),
    st.sampled_from(
        ["nan", "-Inf", "infinity", "a", '"b c"', "'d'", '""', "x#y", "007", "-", "1e", "é", "'it's'", '"']
    ),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(odd_words, odd_words, odd_words), min_size=1, max_size=5))
def test_the_compiled_reader_agrees_with_the_plain_one(rows: list[tuple[str, ...]]) -> None:
    text = "data_\nloop_\n_a\n_b\n_cName\n" + "\n".join(" ".join(row) for row in rows)
    tables: list[object] = []
    for small in (1 << 30, 0):
        star._SMALL = small
        try:
            tables.append(star.parse_star(text.encode())[""])
        except FormatError as error:
            tables.append(str(error))
        finally:
            star._SMALL = 1 << 19
    if isinstance(tables[0], str) or isinstance(tables[1], str):
        assert tables[0] == tables[1]
    else:
        pd.testing.assert_frame_equal(*tables, check_exact=True)  # type: ignore[call-overload]


def test_a_long_table_is_read_to_the_last_bit_and_written_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n = 40_000
    bits = rng.integers(0, 2**63, n).astype(np.uint64).view(np.float64)
    table = pd.DataFrame({"a": np.where(np.isfinite(bits), bits, 1.0), "b": rng.normal(size=n), "c": rng.random(n)})
    table["d"], table["i"] = np.float32(rng.random(n)), rng.integers(-(2**53), 2**53, n)
    table.attrs["exact"] = True
    write_star(tmp_path / "a.star", {"p": table})
    assert (tmp_path / "a.star").stat().st_size > star._SMALL
    again = read_star(tmp_path / "a.star")["p"]
    for label in table:
        np.testing.assert_array_equal(again[label].to_numpy().astype(table[label].dtype), table[label], err_msg=label)


def test_a_line_break_in_a_name_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    with pytest.raises(FormatError, match="rlnImageName"):
        write_star(path, {"p": pd.DataFrame({"rlnImageName": ["a\nb"]})})
    assert path.read_text() == WHOLE
    assert [p.name for p in tmp_path.iterdir()] == ["a.star"]


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    table = pd.DataFrame({"rlnA": np.arange(300_000.0)})
    with pytest.raises(ResourceError, match=r"big\.star"):
        write_star(tmp_path / "big.star", {"p": table})
    assert list(tmp_path.iterdir()) == []


words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=12).filter(
    lambda t: not ('"' in t and "'" in t) and "\x85" not in t and not any(c in t for c in "\u2028\u2029")
)
reals = st.floats(allow_nan=True, allow_infinity=True, width=64).filter(lambda x: abs(x) < 1e300 or not np.isfinite(x))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(reals, st.integers(-(2**62), 2**62), words), min_size=1, max_size=6))
def test_any_table_round_trips(tmp_path: Path, rows: list[tuple[float, int, str]]) -> None:
    table = pd.DataFrame(rows, columns=["rlnReal", "rlnWhole", "rlnImageName"])
    write_star(tmp_path / "h.star", {"p": table})
    again = read_star(tmp_path / "h.star")["p"]
    np.testing.assert_allclose(again.rlnReal.astype(float), table.rlnReal, rtol=1e-6, atol=5.1e-7)
    assert again.rlnWhole.tolist() == table.rlnWhole.tolist()
    assert again.rlnImageName.tolist() == table.rlnImageName.tolist()


@pytest.mark.parametrize("piece", [1, 3, 65536])
@pytest.mark.parametrize("odd", [b"\xc3\xa9", b"\xff", b"a\0", b"w" * 5000, b"\xed\xa0\x80"])
def test_text_as_words_is_the_text(odd: bytes, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the words: NumPy's strings where those can hold them, Python's otherwise; in pieces of any size."""
    from cryoflow.io.star import starscan
    from cryoflow.io.star.words import Words

    monkeypatch.setattr(starscan, "_PIECE", piece)
    head = b"data_\nloop_\n_rlnImageName\n_a\n_rlnMicrographName\n_b\n_c\n"
    rows = [b"%d@%s %d m_%d 9007199254740993 0.5" % (i + 1, [b"s", odd][i % 5 == 4], i, i // 2) for i in range(11)]
    data = head + b"\n".join(rows)
    plain = star.parse_star(data)[""]
    monkeypatch.setattr(star, "_SMALL", 0)
    pd.testing.assert_frame_equal(star.parse_star(data)[""], plain, check_exact=True)
    compact = star.parse_star(data, compact=True)[""]
    assert isinstance(compact.rlnMicrographName.array, Words) == (odd == b"\xc3\xa9")
    pd.testing.assert_frame_equal(compact.astype(dict.fromkeys(plain.columns[[0, 2]], object)), plain, check_exact=True)
    assert (compact.rlnImageName == plain.rlnImageName.iloc[4]).tolist() == [i == 4 for i in range(11)]
    assert compact.rlnMicrographName.factorize()[0].tolist() == plain.rlnMicrographName.factorize()[0].tolist()
    assert compact.iloc[[2, 9]].rlnImageName.tolist() == plain.iloc[[2, 9]].rlnImageName.tolist()


def test_a_column_that_turns_to_text_late_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoflow.io.star import starscan

    monkeypatch.setattr(starscan, "_PIECE", 2)
    data = b"data_\nloop_\n_a\n_b\n_c\n" + b"".join(b"%d 0%d %d.5\n" % (i, i, i) for i in range(9)) + b"x 0.5 9\n"
    plain = star.parse_star(data)[""]
    monkeypatch.setattr(star, "_SMALL", 0)
    pd.testing.assert_frame_equal(star.parse_star(data)[""], plain, check_exact=True)
    assert [plain[label].dtype.kind for label in plain] == ["O", "f", "f"]
    with pytest.raises(FormatError, match=r"row 11 \(line 16\)"):
        star.parse_star(data + b"1 2\n")


def test_a_row_too_short_for_its_labels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(star, "_SMALL", 0)
    with pytest.raises(FormatError, match=r"row 1 \(line 43\)"):
        star.parse_star(b"data_\nloop_\n" + b"".join(b"_a%d\n" % i for i in range(40)) + b"1 2\n")


def test_a_large_set_takes_thrice_its_file(tmp_path: Path) -> None:
    """Never the file, its words as Python objects, its table and the Dataset side by side."""
    import tracemalloc

    labels = ["ImageName", "MicrographName", "CoordinateX", "CoordinateY", "AngleRot", "AngleTilt", "AnglePsi",
              "OriginXAngst", "OriginYAngst", "DefocusU", "DefocusV", "DefocusAngle", "OpticsGroup"]  # fmt: skip
    head = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnImagePixelSize\n1 300 1.5\n\ndata_particles\nloop_\n"
    rows = (
        f"{i % 500 + 1:06d}@Extract/job001/Movies/{i // 500:06d}.mrcs Extract/job001/Movies/{i // 500:06d}.mrc "
        f"{i}.5 {i}.25 {i % 360}.0 {i % 180}.0 0.5 1.25 -2.5 15000.1 14800.2 45.0 1\n" for i in range(100_000)
    )  # fmt: skip
    path = write(tmp_path, head + "".join(f"_rln{label}\n" for label in labels) + "".join(rows))
    read_particles(path, images=False)  # libraries are loaded
    tracemalloc.start()
    ds = read_particles(path, images=False)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ds.image_name.values[99_999] == "000500@Extract/job001/Movies/000199.mrcs"
    print(f"at most {most / path.stat().st_size:.2f} times the file, and {kept / path.stat().st_size:.2f} kept")
    assert most < 3.5 * path.stat().st_size
    assert kept < 2.4 * path.stat().st_size
