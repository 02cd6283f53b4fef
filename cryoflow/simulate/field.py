"""What lies in a field of view: particles apart from each other, ice contaminants, uneven illumination."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from cryoflow.errors import ParameterError
from cryoflow.kernels.masks import raised_cosine
from cryoflow.kernels.rotation import random_rotations
from cryoflow.simulate.noise import stream

__all__ = ["check_room", "dirt_image", "draw_dirt", "draw_places", "illumination"]

Array = np.ndarray[Any, np.dtype[Any]]
POSITIONS, DIRT = 11, 12  # streams of (seed, stream, micrograph)


def check_room(shape: tuple[int, int], diameter: float, count: int) -> None:
    """Raise ``ParameterError`` unless ``count`` discs of ``diameter`` pixels fit into a micrograph at random."""
    inner = [side - 1.5 * diameter for side in shape]
    if min(inner) < 0:
        raise ParameterError(
            "simulate_micrographs", expected=f"micrographs of at least {int(np.ceil(1.5 * diameter))} pixels a side",
            found=f"shape {shape}",
        )  # fmt: skip
    # discs thrown at random jam near 0.55 of the plane; leave a margin
    room = int(0.45 * (inner[0] + diameter) * (inner[1] + diameter) / (0.25 * np.pi * diameter**2))
    if count > room:
        raise ParameterError(
            "simulate_micrographs", expected=f"at most {room} particles on a micrograph of {shape}", found=str(count),
            remedy="Give a larger shape or fewer particles_per_micrograph.",
        )  # fmt: skip


def draw_dirt(seed: int, number: int, shape: tuple[int, int], pixel: float, mean: float) -> list[dict[str, Any]]:
    """Outlines r(t) = r0 (1 + sum_k a_k cos(k t + p_k)) of ice blobs, pixels, and how dark they are."""
    rng = stream(seed, DIRT, number)
    return [
        {
            "centre": rng.uniform(0, 1, 2) * np.array(shape[::-1]),
            "radius": rng.uniform(100, 350) / pixel,
            "waves": rng.normal(0, 0.12, 5) / np.arange(1, 6),
            "phases": rng.uniform(0, 2 * np.pi, 5),
            "darkness": rng.uniform(0.15, 0.45),
        }
        for _ in range(rng.poisson(mean))
    ]


def draw_places(
    seed: int, number: int, shape: tuple[int, int], diameter: float, count: int, blobs: list[dict[str, Any]]
) -> tuple[Array, Array]:
    """Coordinates (m, 2) as (x, y) and rotations (m, 3, 3) of one micrograph: random, apart, and off the dirt."""
    rng = stream(seed, POSITIONS, number)
    margin = 0.75 * diameter
    low, high = np.full(2, margin), np.array(shape[::-1]) - 1 - margin
    placed = np.empty((0, 2))
    for _ in range(400 * count):
        if len(placed) == count:
            break
        trial = rng.uniform(low, high)
        if len(placed) and ((placed - trial) ** 2).sum(axis=1).min() < (1.02 * diameter) ** 2:
            continue
        if any(_blob_distance(blob, *trial) < 0.6 * diameter for blob in blobs):
            continue
        placed = np.concatenate([placed, trial[None]])
    return placed, random_rotations(len(placed), rng)


def _blob_distance(blob: dict[str, Any], x: Any, y: Any) -> Any:
    """About the distance in pixels outside the outline of a blob, negative within."""
    dx, dy = x - blob["centre"][0], y - blob["centre"][1]
    angle = np.arctan2(dy, dx)
    orders = range(1, 6)
    rim = 1 + sum(a * np.cos(k * angle + p) for k, a, p in zip(orders, blob["waves"], blob["phases"]))
    return np.hypot(dx, dy) - blob["radius"] * rim


def dirt_image(blobs: list[dict[str, Any]], shape: tuple[int, int], pixel: float, rng: np.random.Generator) -> Array:
    """Share of the electrons that contaminants take, (ny, nx) float32."""
    total = np.zeros(shape, dtype=np.float32)
    y, x = np.ogrid[: shape[0], : shape[1]]
    for blob in blobs:
        inside = raised_cosine(_blob_distance(blob, x, y), 0.0, max(2.0, 15 / pixel))
        grains = [max(4, int(side * pixel / 60) + 1) for side in shape]  # 60 A each
        texture = ndimage.zoom(rng.normal(1, 0.1, grains), [side / g for side, g in zip(shape, grains)], order=1)
        total += (blob["darkness"] * inside * texture[: shape[0], : shape[1]]).astype(np.float32)
    return np.minimum(total, 0.8)


def illumination(shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Relative brightness of beam and ice, a random quadratic surface of about 2 %, zero on average."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in shape)
    a = rng.normal(0, 0.02, 5)
    surface = (a[0] * x + a[1] * (x * x - 1 / 3)) + (a[2] * y + a[3] * (y * y - 1 / 3))[:, None] + a[4] * np.outer(y, x)
    return np.asarray(surface, dtype=np.float32)
