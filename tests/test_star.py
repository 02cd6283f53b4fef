"""STAR files: against the starfile package, RELION's own programs, and damaged files."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoflow.errors import FormatError, ResourceError
from cryoflow.io.particles import image_numbers, read_particles, write_particles
from cryoflow.io.star import starblock, startokens, wordbuilder
from cryoflow.io.star.lazywords import words_behind
from cryoflow.io.star.star import parse_star, read_star, write_star
from cryoflow.io.star.wordcolumn import WordColumn

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


WORD = re.compile(r"""("(?:[^"]|"(?! |$))*"(?= |$)|'(?:[^']|'(?! |$))*'(?= |$)|[^ ]+)""")
REAL = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)", re.IGNORECASE)


def plainly(lines: list[str], names: list[bool]) -> list[tuple[str, list[object]]] | None:
    """The columns of some rows, word by word; None where a row has too few or too many."""
    rows = []
    for line in lines:
        words = list(takewhile(lambda w: not w.startswith("#"), WORD.findall(line)))
        quoted = [len(w) > 1 and w[0] == w[-1] and w[0] in "\"'" for w in words]
        if words:
            rows.append([w[1:-1] if q else w for w, q in zip(words, quoted, strict=True)])
    if any(len(row) != len(names) for row in rows):
        return None
    columns: list[tuple[str, list[object]]] = []
    for name, words in zip(names, zip(*rows, strict=True), strict=True):
        digits = [w.lstrip("+-").isdecimal() and w.isascii() for w in words]
        fit = [d and str(int(w)) == w.removeprefix("+").replace("-0", "0") for d, w in zip(digits, words, strict=True)]
        if not name and all(fit) and all(-(2**63) <= int(w) < 2**63 for w in words):
            columns.append(("i", [int(w) for w in words]))
        elif not name and all(map(REAL.fullmatch, words)) and not all(digits):
            columns.append(("f", [float(w) for w in words]))
        else:
            columns.append(("O", list(words)))
    return columns


@pytest.fixture(params=[1, 40, 1 << 18])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Tables of any size as large ones, in pieces of some bytes."""
    monkeypatch.setattr(starblock, "_SMALL", 0)
    monkeypatch.setattr(startokens, "_LEAST", request.param)
    monkeypatch.setattr(startokens, "_MOST", request.param)
    monkeypatch.setattr(startokens, "_PART", 1 + request.param // 8)
    monkeypatch.setattr(wordbuilder, "_INDEX", request.param)
    return int(request.param)


@pytest.mark.usefixtures("piece")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(odd_words, odd_words, odd_words), min_size=1, max_size=6), end=st.sampled_from(["", "\n"])
)
def test_rows_read_at_once_are_those_read_word_by_word(rows: list[tuple[str, ...]], end: str) -> None:
    lines = [" ".join(row) for row in rows]
    expected = plainly(lines, [False, False, True])
    data = ("data_\nloop_\n_a\n_b\n_cName\n" + "\n".join(lines) + end).encode()
    if expected is None:
        with pytest.raises(FormatError, match="expected 3 values"):
            parse_star(data)
        return
    found = parse_star(data)[""]
    for label, (kind, values) in zip(found, expected, strict=True):
        assert found[label].dtype.kind == kind
        if kind == "f":
            np.testing.assert_array_equal(found[label].to_numpy(), np.array(values, float))
            assert (np.signbit(found[label]) == np.signbit(np.array(values, float)))[~np.isnan(found[label])].all()
        else:
            assert found[label].tolist() == values


def test_a_long_table_is_read_to_the_last_bit_and_written_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    n = 40_000
    bits = rng.integers(0, 2**63, n).astype(np.uint64).view(np.float64)
    table = pd.DataFrame({"a": np.where(np.isfinite(bits), bits, 1.0), "b": rng.normal(size=n), "c": rng.random(n)})
    table["d"], table["i"] = np.float32(rng.random(n)), rng.integers(-(2**53), 2**53, n)
    table.attrs["exact"] = True
    write_star(tmp_path / "a.star", {"p": table})
    assert (tmp_path / "a.star").stat().st_size > starblock._SMALL
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


@pytest.mark.parametrize(
    "odd", [b"\xc3\xa9", b"\xff", b"a\0", b"w" * 5000, b"\xed\xa0\x80", b"'o'", b"12345678@x", b"x@y"]
)
@pytest.mark.usefixtures("piece")
def test_text_of_large_tables_is_the_text(odd: bytes) -> None:
    """Whatever the words, in pieces of any size, repeated or not."""
    head = b"data_\nloop_\n_rlnImageName\n_a\n_rlnMicrographName\n_b\n_c\n"
    names = [b"%d@%s" % (i + 1, [b"s", odd][i % 5 == 4]) if i % 7 else odd for i in range(40)]
    rows = [b"%s %d m_%d 9007199254740993 0.5" % (name, i, i // 2) for i, name in enumerate(names)]
    table = parse_star(head + b"\n".join(rows))[""]
    expected = [name.decode("utf-8", "surrogateescape") for name in names]
    expected = [odd.strip(b"'").decode("utf-8", "surrogateescape") if not i % 7 else e for i, e in enumerate(expected)]
    column = table.rlnImageName
    assert isinstance(column.array, WordColumn)
    assert column.tolist() == expected
    assert list(column) == expected
    plain = pd.Series(np.array(expected, object), dtype=object)
    for word in (expected[4], expected[0], "1@s", "x", "01@s", "@s", "s"):
        assert (column == word).tolist() == (plain == word).tolist(), word
        assert (column != word).tolist() == (plain != word).tolist()
    assert column.factorize()[0].tolist() == plain.factorize()[0].tolist()
    assert column.iloc[[2, 9, -1]].tolist() == plain.iloc[[2, 9, -1]].tolist()
    assert column[plain.str.contains("s")].tolist() == plain[plain.str.contains("s")].tolist()
    if odd not in (b"\xff", b"\xed\xa0\x80"):  # which pandas' own strings do not hold
        assert column.str.upper().tolist() == plain.str.upper().tolist()
        assert column.str.partition("@")[2].tolist() == plain.str.partition("@")[2].tolist()
        assert column.value_counts().to_dict() == plain.value_counts().to_dict()
    assert column.str.len().tolist() == plain.str.len().tolist()
    assert column.sort_values().tolist() == sorted(expected)
    assert column.isin([expected[4]]).tolist() == plain.isin([expected[4]]).tolist()
    assert column.map(len).tolist() == plain.map(len).tolist()
    assert pd.concat([column, column]).tolist() == expected * 2
    assert column.iloc[5:30].array.words.kept().tolist() == expected[5:30]
    assert table.groupby("rlnMicrographName").size().to_dict() == {f"m_{i}": 2 for i in range(20)}
    assert table.rlnMicrographName.tolist() == [f"m_{i // 2}" for i in range(40)]
    assert table.b.unique().tolist() == [9007199254740993]


def test_large_tables_are_written_as_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{i % 5 + 1:06d}@s{i // 5}.mrcs {i} 'a b' m{i // 9}" for i in range(100)]
    labels = "_rlnImageName\n_rlnN\n_rlnRemark\n_rlnMicrographName\n"
    path = write(tmp_path, f"data_p\nloop_\n{labels}" + "\n".join(rows) + "\n")
    write_star(tmp_path / "small.star", read_star(path))
    monkeypatch.setattr(starblock, "_SMALL", 0)
    write_star(tmp_path / "large.star", read_star(path))
    assert (tmp_path / "large.star").read_bytes() == (tmp_path / "small.star").read_bytes()


@pytest.mark.usefixtures("piece")
def test_a_column_that_turns_to_text_late_is_text() -> None:
    data = b"data_\nloop_\n_a\n_b\n_c\n_d\n_e\n" + b"".join(b"%d 0%d %d.5 -0 08\n" % (i, i, i) for i in range(90))
    table = parse_star(data + b"x 0.5 9 1.5 9\n")[""]
    assert [table[label].dtype.kind for label in table] == ["O", "f", "f", "f", "O"]
    assert table.a.tolist() == [*map(str, range(90)), "x"]
    assert table.e.tolist() == ["08"] * 90 + ["9"]
    assert np.signbit(table.d[:90]).all()
    assert table.b.tolist() == [*range(90), 0.5]
    with pytest.raises(FormatError, match=r"row 91 \(line 98\)"):
        parse_star(data + b"1 2\n")


@pytest.mark.usefixtures("piece")
def test_whole_numbers_take_the_bytes_they_need() -> None:
    rows = "".join(f"{i} {i * 10**8} {i}\n" for i in range(90)) + "1 1 99999999999999999999\n"
    table = parse_star(("data_\nloop_\n_a\n_b\n_c\n" + rows).encode())[""]
    assert [table[label].dtype for label in ("a", "b")] == [np.int32, np.int64]
    assert table.b.tolist() == [i * 10**8 for i in range(90)] + [1]
    assert table.c.tolist() == [*map(str, range(90)), "99999999999999999999"]


@pytest.mark.usefixtures("piece")
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("1", "row 1 (line 5): expected 2 values; found 1"),
        ("1 2\n3\n\n4\n5 6", "row 2 (line 6): expected 2 values; found 1"),
        ("1 2\n3\n4 5 6\n7 8", "row 2 (line 6): expected 2 values; found 1"),
        ("1 2 3 4\n", "row 1 (line 5): expected 2 values; found 4"),
        ("1 2 # 3\n4 'a b' #", ""),
        ("1 2\n_x 3", "row 2 (line 6): expected 2 values; found '_x'"),
        ("1 2\n'_x' 3\n'loop_' 3", ""),
        ("1 2\nloop_ 3", "row 2 (line 6): expected 2 values; found 'loop_'"),
        ("1 2\n '\n", "row 2 (line 6): expected 2 values; found 1"),
        ("1 " * 20_000, "row 1 (line 5): expected 2 values; found more than 10002"),
    ],
)
def test_rows_that_are_none_are_named(rows: str, says: str) -> None:
    data = f"data_\nloop_\n_a\n_b\n{rows}".encode()
    if says:
        with pytest.raises(FormatError) as error:
            parse_star(data)
        assert says in str(error.value)
    else:
        assert len(parse_star(data)[""]) > 1


@pytest.mark.parametrize("returns", [b"\n", b"\r\n", b"\r"])
def test_a_file_in_windows_is_the_file(returns: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoflow.io.star.starbytes import StarBytes

    text = "\ufeff# top\ndata_a\n_rlnA 1\n\n # x\n# version 30001\n data_b\nloop_\n_rlnB\n_rlnC\n1 a\n2 data_b\n"
    data = (text + "#\ndata_c\n").encode().replace(b"\n", returns)
    whole = parse_star(data)
    assert {n: t.attrs for n, t in whole.items()} == {
        "a": {"list": True, "comments": ["# top"], "version": 0},
        "b": {"comments": ["# x"], "version": 30001},
        "c": {"list": True, "comments": ["#"], "version": 0},
    }
    for window in (1, 2, 3, 5, 8, 13, 64):
        monkeypatch.setattr(StarBytes.__init__, "__defaults__", (window,))
        found = parse_star(data)
        assert list(found) == ["a", "b", "c"]
        for name, table in whole.items():
            pd.testing.assert_frame_equal(found[name], table)
            assert found[name].attrs == table.attrs
    with pytest.raises(FormatError, match="line 12"):
        parse_star(data.replace(b"2 data_b", b"2"))


def test_more_labels_or_blocks_than_any_file_has_are_refused() -> None:
    with pytest.raises(FormatError, match="at most 1000 labels in a block"):
        parse_star(b"data_\nloop_\n" + b"".join(b"_%d\n" % i for i in range(1001)))
    with pytest.raises(FormatError, match="labels in a file of this size"):
        parse_star(b"".join(b"data_%d\n" % i + b"".join(b"_%d 1\n" % j for j in range(1000)) for i in range(13)))
    with pytest.raises(FormatError, match="at most 1017 blocks"):
        parse_star(b"".join(b"data_%d\n" % i for i in range(1018)))
    with pytest.raises(FormatError, match="a name of a block"):
        parse_star(b"data_" + b"x" * 10_000)


def test_a_large_set_takes_twice_its_file(tmp_path: Path) -> None:
    """Never the file, its words as strings, its table and the Dataset side by side."""
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
    assert most < 2 * path.stat().st_size
    assert kept < 1.3 * path.stat().st_size


@pytest.mark.usefixtures("piece")
def test_text_in_a_column_of_numbers_of_a_large_table_is_named(tmp_path: Path) -> None:
    head = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnImagePixelSize\n1 300 1.5\n\ndata_particles\nloop_\n"
    labels = "_rlnImageName\n_rlnDefocusU\n_rlnOpticsGroup\n"
    rows = [f"{i + 1}@a {i}.5 1\n" for i in range(30)]
    for bad, says in (("x", "a number for _rlnDefocusU; found 'x'"), ("nan", "a number for _rlnDefocusU")):
        path = write(tmp_path, head + labels + "".join(rows) + f"31@a {bad} 1\n")
        with pytest.raises(FormatError) as error:
            read_particles(path, images=False)
        assert "row 31" in str(error.value)
        assert says in str(error.value)
    path.write_bytes(path.read_bytes().replace(b"7@a", b"\xff@a").replace(b"nan", b"1"))
    with pytest.raises(FormatError, match=r"row 7.*UTF-8 for _rlnImageName"):
        read_particles(path, images=False)


@pytest.mark.usefixtures("piece")
def test_names_of_a_large_set_are_lazy_until_they_are_asked_for(tmp_path: Path) -> None:
    rows = [f"{i % 7 + 1:06d}@s{i // 7}.mrcs m{i % 3} {i}.5 300 1.5" for i in range(60)]
    labels = "".join(f"_rln{x}\n" for x in ("ImageName", "MicrographName", "DefocusU", "Voltage", "ImagePixelSize"))
    path = write(tmp_path, "data_images\nloop_\n" + labels + "\n".join(rows) + "\n")
    ds = read_particles(path, images=False)
    names = [row.split()[0] for row in rows]
    assert words_behind(ds.image_name.variable) is not None
    assert ds.image_name.values.tolist() == names
    assert ds.image_name[3].item() == names[3]
    for selection in (slice(5, 40, 3), [3, 1, 59, 1], ds.defocus_u.values > 30):
        part = ds.isel(particle=selection)
        words = words_behind(part.image_name.variable)
        assert words is not None
        expected = np.array(names)[selection].tolist()
        assert words.tolist() == part.image_name.values.tolist() == expected
        files, file, section = image_numbers(part.image_name, "p")
        assert [f"{s + 1:06d}@{files[f]}" for f, s in zip(file, section, strict=True)] == expected
        write_particles(part, tmp_path / "b.star", version="source")
        table = read_star(tmp_path / "b.star")["images"]
        assert table.rlnImageName.tolist() == expected
        assert table.rlnMicrographName.tolist() == part.micrograph_name.values.tolist()
    copied = pickle.loads(pickle.dumps(ds))
    assert copied.identical(ds.load())
    assert ds.sortby("image_name").image_name.values.tolist() == sorted(names)


def test_readers_of_star_leave_numba_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "data_\nloop_\n_rlnImageName\n_rlnVoltage\n_rlnImagePixelSize\n" + "1@a 300 1.5\n" * 60_000)
    code = (
        f"import sys, cryoflow.io as io; io.read_particles({str(path)!r}, images=False); print('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_damage_of_megabytes_is_read_in_seconds() -> None:
    """Lines without rows, blanks before a name, quotes that never end: one pass, whatever there is of them."""
    head = b"data_\nloop_\n_a\n_b\n"
    began = time.process_time()
    assert len(parse_star(head + b"\n" * 2_000_000)[""]) == 0
    assert len(parse_star(head + b"# x\n" * 500_000 + b"1 2\n")[""]) == 1
    assert list(parse_star(head + b"1 2\n" + b" " * 2_000_000 + b"data_x\n_c 1\n")) == ["", "x"]
    endless = {
        "more than 10002": head + b'"a ' * 700_000,
        "at most 1048576": b"data_\n_a " + b"1 " * 900_000,
        "expected a label": b"data_" + b"\n;a\n;" * 40_000,
        "line 400002: expected a line with ; to end": b"data_" + b"\n;a\n;" * 200_000 + b"\n;" + b"\n" * 1_000_000,
    }
    for says, text in endless.items():
        with pytest.raises(FormatError, match=says):
            parse_star(text)
    assert time.process_time() - began < 5


TEXTS = st.lists(st.sampled_from(["a", " b", "\n", "\r\n", "data_x", "loop_", "# c", "_d", "'", '"', "é", "\n_e 1\n"]))


@pytest.mark.usefixtures("piece")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(TEXTS.map("".join), st.sampled_from(["1", "'2 3'", None])), min_size=1, max_size=8),
    window=st.sampled_from([2, 7, 1 << 20]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_texts_of_several_lines_are_what_stands_between(
    rows: list[tuple[str, str | None]], window: int, end: str
) -> None:
    """First, last or both in their rows; whatever they hold is no block, label, row, quote or comment."""
    from cryoflow.io.star.starbytes import StarBytes

    body = "".join(f"\n;{text}\n;" + (f" {word}" if word else f"\n;{text}\n;") for text, word in rows)
    data = f"data_a\n_note\n;{rows[0][0]}\n; _n 1 # so\ndata_b\nloop_\n_a\n_b{body}\ndata_c\n_c 1\n"
    raw = data.replace("\r\n", "\n").replace("\n", end).encode()
    before = StarBytes.__init__.__defaults__
    StarBytes.__init__.__defaults__ = (window,)
    try:
        blocks = parse_star(raw)
    finally:
        StarBytes.__init__.__defaults__ = before
    texts = [text.replace("\r\n", "\n") for text, _ in rows]
    assert list(blocks) == ["a", "b", "c"]
    assert blocks["a"].iloc[0].tolist() == [texts[0], 1]
    assert blocks["b"].a.astype(str).tolist() == texts
    words = [text if word is None else word.strip("'") for text, (_, word) in zip(texts, rows, strict=True)]
    assert blocks["b"].b.astype(str).tolist() == words


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_text_without_an_end_or_of_a_short_row_is_named(end: str) -> None:
    for text, says in (
        ("data_x\n_a 1\n_b\n;never\nends\n", "line 4: expected a line with ; to end the text; found the end of the"),
        ("data_x\nloop_\n_a\n1\n;one\n;\n;two", "line 7: expected a line with ; to end the text"),
        ("data_x\nloop_\n_a\n_b\n1\n;one\n;\n2\n3 4\n", "row 2 (line 8): expected 2 values; found 1"),
        ("data_x\nloop_\n_a\n_b\n1\n;one\n;\n;two\nlines\n; 3 4\n", "row 2 (line 8): expected 2 values; found 3"),
        ("data_x\n_a 1\n;stray\n;\n", "line 3: expected a label, loop_ or a comment; found ;stray"),
        ("data_x\n_a\n;text\n; 1\n", "line 4: expected a label, loop_ or a comment; found 1"),
    ):
        with pytest.raises(FormatError) as error:
            parse_star(text.replace("\n", end).encode())
        assert says in str(error.value)
