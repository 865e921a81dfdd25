"""Pictures that a scene can be drawn after: segmentation map, depth, edges and scribble.

All are functions of the scene's truth: uint8 [S,S,3], S a multiple of 32. Segmentation and depth
are flat on a lattice of 16 x 16 blocks (4 pixels at 64) and scribbles on one of 32 x 32, so that
few different cells occur: what a small codebook can carry. `read_*` turns such a picture, or its
reconstruction, back into the map that it was drawn from.

Axes: S side of the picture, L = 16 blocks a side.
"""

from __future__ import annotations

import numpy as np

from cm3leon import seeds
from cm3leon.errors import UserError
from cm3leon.world.boards import board_mask
from cm3leon.world.scenes import ROOT, Scene
from cm3leon.world.sprites import SHAPES

LATTICE = 16  # blocks a side
FINE = 2 * LATTICE  # strokes of a scribble a side
CLASSES = ("ground", *SHAPES, "sign")
CLASS_COLOURS = np.array(
    [
        (0, 0, 0),
        (255, 0, 0),  # circle
        (0, 255, 0),  # square
        (0, 0, 255),  # triangle
        (255, 255, 0),  # star
        (255, 0, 255),  # heart
        (0, 255, 255),  # hexagon
        (255, 128, 0),  # crescent
        (128, 0, 255),  # cross
        (255, 255, 255),  # sign
    ],
    np.uint8,
)
SHADES = np.array([0, 255, 195, 135, 75], np.uint8)  # ground, then from the nearest thing on
EDGE_COLOURS = np.array([(0, 0, 0), (255, 255, 255)], np.uint8)
SCRIBBLE_COLOURS = np.array([(20, 54, 44), (238, 240, 228)], np.uint8)  # a slate and chalk
ROUGH = (0.35, 0.65)  # a scribbled block is covered by at least a share from this range


def _check_side(size: int) -> None:
    if size % FINE or size < FINE:
        raise UserError(f"a condition's size must be a multiple of {FINE} pixels, got {size}")


def _things(scene: Scene) -> list[tuple[str, np.ndarray]]:
    """Class and visible mask of everything that stands in a scene, farthest first."""
    _check_side(scene.size)
    things = [(thing.shape, thing.mask) for thing in scene.objects]
    if scene.plan.sign:
        things.insert(0, ("sign", board_mask(scene.plan.sign, scene.size)))
    return things


def _covered(mask: np.ndarray, least: float = 0.5) -> np.ndarray:
    """Blocks of which a mask covers at least this share, bool [L,L]."""
    side = len(mask) // LATTICE
    return mask.reshape(LATTICE, side, LATTICE, side).sum((1, 3)) >= least * side**2


def _grown(blocks: np.ndarray, size: int) -> np.ndarray:
    """A map of blocks as pixels: [L,L,...] -> [S,S,...]."""
    times = size // len(blocks)
    return blocks.repeat(times, 0).repeat(times, 1)


def class_map(scene: Scene) -> np.ndarray:
    """int8 [L,L]: index into CLASSES of the nearest thing that covers half of a block."""
    found = np.zeros((LATTICE, LATTICE), np.int8)
    for name, mask in _things(scene):
        found[_covered(mask)] = CLASSES.index(name)
    return found


def depth_map(scene: Scene) -> np.ndarray:
    """int8 [L,L]: 0 ground, 1 the nearest thing, 2 the next. UserError beyond four things."""
    found, things = np.zeros((LATTICE, LATTICE), np.int8), _things(scene)
    if len(things) >= len(SHADES):
        raise UserError(
            f"depth has shades for {len(SHADES) - 1} things, {scene.id} shows {len(things)}"
        )
    for rank, (_, mask) in enumerate(things):
        found[_covered(mask)] = len(things) - rank
    return found


def _outline(mask: np.ndarray) -> np.ndarray:
    """Elements of a mask with a side on what is not the mask."""
    inside = np.pad(mask, 1)
    return mask & ~(inside[2:, 1:-1] & inside[:-2, 1:-1] & inside[1:-1, 2:] & inside[1:-1, :-2])


def edge_map(scene: Scene) -> np.ndarray:
    """bool [S,S]: the outlines of the visible masks, one pixel wide, inside them."""
    found = np.zeros((scene.size, scene.size), bool)
    for _, mask in _things(scene):
        found |= _outline(mask)
    return found


def scribble_map(scene: Scene) -> np.ndarray:
    """bool [32,32]: strokes along the outlines of what covers a block by a share that is drawn for
    each thing from the scene's id.
    """
    found, things = np.zeros((FINE, FINE), bool), _things(scene)
    shares = seeds.generator(ROOT, "scribble", scene.id).uniform(*ROUGH, len(things))
    for (_, mask), least in zip(things, shares, strict=True):
        found |= _outline(_grown(_covered(mask, least), FINE))
    return found


def segmentation(scene: Scene) -> np.ndarray:
    """One flat colour a class on black."""
    return _grown(CLASS_COLOURS[class_map(scene)], scene.size)


def depth(scene: Scene) -> np.ndarray:
    """One shade of grey for each thing by its depth, the nearest white, on black."""
    return _grown(SHADES[depth_map(scene)][..., None].repeat(3, -1), scene.size)


def edges(scene: Scene) -> np.ndarray:
    """Outlines of a pixel, white on black."""
    return EDGE_COLOURS[edge_map(scene).astype(np.int8)]


def scribble(scene: Scene) -> np.ndarray:
    """Rough outlines, two pixels wide at 64, chalk on a slate."""
    return _grown(SCRIBBLE_COLOURS[scribble_map(scene).astype(np.int8)], scene.size)


CONDITIONS = {"segmentation": segmentation, "depth": depth, "edges": edges, "scribble": scribble}
MAPS = {  # what each of them is drawn from
    "segmentation": class_map,
    "depth": depth_map,
    "edges": edge_map,
    "scribble": scribble_map,
}


def _nearest(picture: np.ndarray, blocks: int, colours: np.ndarray) -> np.ndarray:
    """int8 [blocks, blocks]: the colour nearest to the mean of each block of uint8 [S,S,3]."""
    square = picture.ndim == 3 and picture.shape[2] == 3 and picture.shape[0] == picture.shape[1]
    if picture.dtype != np.uint8 or not square:
        raise UserError(
            f"a condition to read must be uint8 [S,S,3], got {picture.dtype} {list(picture.shape)}"
        )
    _check_side(len(picture))
    side = len(picture) // blocks
    means = picture.reshape(blocks, side, blocks, side, 3).mean((1, 3), dtype=np.float32)
    distance = ((means[:, :, None] - colours.astype(np.float32)) ** 2).sum(-1)
    return distance.argmin(-1).astype(np.int8)


def read_segmentation(picture: np.ndarray) -> np.ndarray:
    """uint8 [S,S,3] -> `class_map`. Raises UserError for another type, shape or size."""
    return _nearest(picture, LATTICE, CLASS_COLOURS)


def read_depth(picture: np.ndarray) -> np.ndarray:
    """uint8 [S,S,3] -> `depth_map`. Raises UserError for another type, shape or size."""
    return _nearest(picture, LATTICE, SHADES[:, None].repeat(3, 1))


def read_edges(picture: np.ndarray) -> np.ndarray:
    """uint8 [S,S,3] -> `edge_map`. Raises UserError for another type, shape or size."""
    return _nearest(picture, len(picture), EDGE_COLOURS).astype(bool)


def read_scribble(picture: np.ndarray) -> np.ndarray:
    """uint8 [S,S,3] -> `scribble_map`. Raises UserError for another type, shape or size."""
    return _nearest(picture, FINE, SCRIBBLE_COLOURS).astype(bool)


READERS = {
    "segmentation": read_segmentation,
    "depth": read_depth,
    "edges": read_edges,
    "scribble": read_scribble,
}
