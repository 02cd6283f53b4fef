"""A fuzzer for readers of files: seeded mutations of valid files, kept when they reach new lines of the reader.

``fuzz`` asserts, case by case, that nothing but a ``CryoflowError`` escapes, that no case takes longer than a limit,
and that the memory taken stays below a multiple of the file. A failure tells the case and where its bytes were kept.
"""

from __future__ import annotations

import faulthandler
import random
import signal
import struct
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from cryoflow.errors import CryoflowError

__all__ = ["Report", "fuzz", "mutate", "on_file"]

FLOOR = 8 << 20  # bytes any case may take, however small its file
_INTEGERS = (0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 1 << 24, (1 << 31) - 1, -(1 << 31),
             (1 << 32) - 1, (1 << 63) - 1, -(1 << 63))  # fmt: skip
_REALS = (0.0, -0.0, 1.0, -1.0, float("nan"), float("inf"), float("-inf"), 3.4e38, 1e-40, 1e9)


class _TooLong(BaseException):  # no library's ``except Exception`` may swallow it
    pass


@dataclass
class Report:
    """What a run did: cases that were read, cases refused by a typed error, and lines of the reader reached."""

    accepted: int = 0
    refused: int = 0
    lines: int = 0
    corpus: int = 0
    slowest: float = 0.0
    largest: int = 0
    problems: list[str] = field(default_factory=list)


def on_file(read: Callable[[Path], object], suffix: str, folder: Path | None = None) -> Callable[[bytes], object]:
    """A target for ``fuzz`` that writes the bytes to a file and gives its path to ``read``."""
    path = Path(folder or tempfile.mkdtemp()) / f"case{suffix}"

    def target(raw: bytes) -> object:
        path.write_bytes(raw)
        return read(path)

    return target


def fuzz(
    target: Callable[[bytes], object], seeds: Sequence[bytes], cases: int, *, seed: int, memory_factor: float = 4,
    floor: int = FLOOR, seconds: float = 5.0, words: Sequence[bytes] = (), cover: Sequence[str] = (),
) -> Report:  # fmt: skip
    """Give ``target`` ``cases`` mutations of ``seeds`` and assert that it reads or refuses each one properly.

    Parameters
    ----------
    target : reads a file given as bytes (see ``on_file``). It should touch all it opened: headers and images.
    seeds : valid files, small ones (a few KB). All are tried unchanged first; at least one must be read.
    cases, seed : how many, and the seed of the random numbers: the same cases every time, as long as the lines reached
        are the same.
    memory_factor, floor : a case may take ``memory_factor`` times its file plus ``floor`` bytes, as seen by tracemalloc
        (which sees NumPy's arrays).
    seconds : CPU time of one case; forty times as much by the clock, for what waits without working.
    words : tokens of the format to insert (labels, keywords), beside numbers and separators.
    cover : parts of file names, such as "io/images/mrc". Cases that reach new lines there become seeds themselves.
    """
    rng, report, pool, seen = random.Random(seed), Report(), list(seeds), set[tuple[str, int]]()
    read = 0
    for raw in seeds:  # also loads whatever the reader imports
        try:
            target(raw)
            read += 1
        except CryoflowError:
            pass
    assert read, "no seed is read: nothing would be tested"
    with _timers(), _lines(seen, cover) as observe, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for raw in seeds:
            observe(lambda raw=raw: _quietly(target, raw))
        for number in range(cases):
            raw = mutate(rng.choice(pool), pool, rng, words)
            before = len(seen)
            problem = _case(target, raw, report, observe, memory_factor * len(raw) + floor, seconds)
            if problem and not any(p.startswith(problem[0]) for p in report.problems):
                report.problems.append(f"{problem[0]}\n  case {number} of seed {seed}, {_keep(raw)}\n{problem[1]}")
            if len(seen) > before:
                pool.append(raw)
            if len(report.problems) >= 10 or (problem and problem[0].startswith("took")):
                break
    report.lines, report.corpus = len(seen), len(pool)
    assert not report.problems, f"{len(report.problems)} kinds of problems\n\n" + "\n\n".join(report.problems)
    return report


def _case(
    target: Callable[[bytes], object], raw: bytes, report: Report, observe: Callable[[Callable[[], object]], None],
    memory: float, seconds: float,
) -> tuple[str, str] | None:  # fmt: skip
    """Run one case; what went wrong as (kind, details)."""
    began, tracing = time.process_time(), tracemalloc.is_tracing()
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    problem = None
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        signal.setitimer(signal.ITIMER_REAL, 40 * seconds)
        observe(lambda: target(raw))
        report.accepted += 1
    except CryoflowError:
        report.refused += 1
    except _TooLong:
        problem = f"took more than {seconds} s at {_place()}", traceback.format_exc(limit=-6)
    except Exception as error:
        problem = f"{type(error).__name__} escaped at {_place()}", traceback.format_exc(limit=-8)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        taken = tracemalloc.get_traced_memory()[1] - base
        if not tracing:
            tracemalloc.stop()
    spent = time.process_time() - began
    report.slowest, report.largest = max(report.slowest, spent), max(report.largest, taken)
    if problem is None and taken > memory:
        problem = "too much memory", f"{taken} bytes for a file of {len(raw)}; {memory:.0f} allowed"
    if problem is None and spent > seconds:
        problem = "took too long", f"{spent:.1f} s"
    return problem


def _quietly(target: Callable[[bytes], object], raw: bytes) -> None:
    with suppress(CryoflowError):
        target(raw)


def _place() -> str:
    """File and line of the exception being handled: where it was raised."""
    frame = traceback.extract_tb(sys.exc_info()[2])[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _keep(raw: bytes) -> str:
    with tempfile.NamedTemporaryFile(prefix="fuzz-", suffix=".bin", delete=False) as file:
        file.write(raw)
    return f"{len(raw)} bytes kept in {file.name}"


@contextmanager
def _timers() -> Iterator[None]:
    def late(_signal: int, _frame: FrameType | None) -> None:
        raise _TooLong

    before = [(s, signal.signal(s, late)) for s in (signal.SIGVTALRM, signal.SIGALRM)]
    faulthandler.dump_traceback_later(3600, exit=True)  # compiled code that never comes back
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        for number, handler in before:
            signal.signal(number, handler)


@contextmanager
def _lines(seen: set[tuple[str, int]], cover: Sequence[str]) -> Iterator[Callable[[Callable[[], object]], None]]:
    """A caller that notes the lines reached in files whose names contain one of ``cover``."""
    wanted: dict[str, bool] = {}

    def local(frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            seen.add((frame.f_code.co_filename, frame.f_lineno))
        return local

    def each_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in wanted:
            wanted[name] = any(part in name for part in cover)
        return local if wanted[name] else None

    def observe(call: Callable[[], object]) -> None:
        before = sys.gettrace()
        if not cover or before is not None:  # a debugger or a coverage tool is at work: leave it alone
            call()
            return
        sys.settrace(each_call)
        try:
            call()
        finally:
            sys.settrace(before)

    yield observe


# mutations -----------------------------------------------------------------------------------------------------------


def mutate(raw: bytes, pool: Sequence[bytes], rng: random.Random, words: Sequence[bytes] = ()) -> bytes:
    """One to four random changes of ``raw``; positions near the beginning, where headers lie, are likelier.

    >>> mutate(b"abcdefgh" * 8, [b"x"], random.Random(1)) == mutate(b"abcdefgh" * 8, [b"x"], random.Random(1))
    True
    """
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if not data:
            data = bytearray(rng.choice(pool) or b"\0")
        kind = rng.randrange(len(_MUTATIONS) + 2)
        if kind < len(_MUTATIONS):
            _MUTATIONS[kind](data, rng)
        elif kind == len(_MUTATIONS):
            _splice(data, rng, pool)
        else:
            _word(data, rng, words)
    return bytes(data)


def _position(data: bytearray, rng: random.Random) -> int:
    near = min(len(data), rng.choice((64, 256, 1024, len(data))))
    return rng.randrange(max(1, near))


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[_position(data, rng)] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    data[_position(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x20, rng.randrange(256)))


def _integer(data: bytearray, rng: random.Random) -> None:
    width = rng.choice((2, 4, 4, 8))
    value = rng.choice((*_INTEGERS, len(data), len(data) - 1, len(data) + 1, rng.randrange(1 << 20)))
    _put(data, (value % (1 << 8 * width)).to_bytes(width, rng.choice(("little", "big"))), rng)


def _real(data: bytearray, rng: random.Random) -> None:
    _put(data, struct.pack(rng.choice("<>") + rng.choice("fd"), rng.choice(_REALS)), rng)


def _put(data: bytearray, piece: bytes, rng: random.Random) -> None:
    at = _position(data, rng)
    if rng.random() < 0.8:
        at -= at % 4 if len(piece) > 2 else at % 2
    room = len(data) - at
    data[at : at + len(piece)] = piece[:room]


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.choice((_position(data, rng), len(data) - 1, rng.randrange(len(data) + 1))) :]


def _extend(data: bytearray, rng: random.Random) -> None:
    data += rng.choice((b"\0", b"\xff", b" ", rng.randbytes(16))) * rng.choice((1, 3, 64, 512))


def _splice(data: bytearray, rng: random.Random, pool: Sequence[bytes]) -> None:
    other = rng.choice(pool)
    data[_position(data, rng) :] = other[rng.randrange(len(other) + 1) :]


def _remove(data: bytearray, rng: random.Random) -> None:
    at = _position(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 16, 100))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, length = _position(data, rng), rng.choice((1, 2, 4, 16, 100))
    data[at:at] = data[at : at + length] * rng.choice((1, 1, 2, 50))


def _word(data: bytearray, rng: random.Random, words: Sequence[bytes]) -> None:
    common = (b"-1", b"0", b"nan", b"1e999", b"99999999999999999999", b"\n", b" ", b"'", b'"', b"\0", b"\xff", b"../x")
    at = _position(data, rng)
    data[at : at + rng.choice((0, 0, 1, 8))] = rng.choice((*common, *words))


_MUTATIONS = (_flip, _flip, _byte, _integer, _integer, _real, _truncate, _extend, _remove, _repeat)
