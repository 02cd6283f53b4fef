"""Options that functions share: shown, checked, and the same in every reader."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest

from cryoflow.errors import ParameterError
from cryoflow.io.formats import FORMATS
from cryoflow.io.given import DEFAULTS, ReadOptions, given_optics
from cryoflow.io.named import named
from cryoflow.io.particles import read_particles

READERS = [f for f in FORMATS if f.kind == "particles" and f.read]


@pytest.mark.parametrize("reader", sorted({f.read for f in READERS}))
def test_every_reader_of_particles_takes_the_same_options(reader: str) -> None:
    parameters = inspect.signature(named(reader)).parameters
    assert set(ReadOptions.__annotations__) <= set(parameters)
    assert {n: parameters[n].default for n in DEFAULTS} == DEFAULTS
    assert all(parameters[n].kind is inspect.Parameter.KEYWORD_ONLY for n in DEFAULTS)
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def test_a_name_that_is_no_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="voltge"):
        read_particles(tmp_path / "p.star", voltge=300.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        read_particles(tmp_path / "p.star", tmp_path)  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(read_particles)) is read_particles


@pytest.mark.parametrize(("name", "value"), [("pixel_size", 0.0), ("voltage", -1), ("cs", float("nan")), ("cs", -2.7)])
def test_optics_that_no_microscope_has(name: str, value: float) -> None:
    with pytest.raises(ParameterError, match=f"{name} above 0"):
        given_optics({name: value}, "here")  # type: ignore[misc]
    assert given_optics({"cs": 0, "amplitude_contrast": 0}, "here") == {"cs": 0.0, "amplitude_contrast": 0.0}
