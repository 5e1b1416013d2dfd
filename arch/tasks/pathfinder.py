"""Pathfinder: whether a dashed curve joins the two dots of an image, which is read pixel by pixel.

    grey_1 grey_2 ... grey_(size^2)  ->  no, yes

Linsley, Kim, Veerabadran, Serre, Learning long-range spatial dependencies with horizontal gated-recurrent units, 2018,
arXiv 1805.08315, sec. 3; sizes of Tay et al., Long Range Arena, 2020, arXiv 2011.04006, sec. 2.2.5, those of its "hard"
images of 32 x 32. Two curves begin near each other and grow by a dash at a time, from each dash to the next with a turn
x of density cos(continuity x)^2; a dot lies on the beginning of one, the other on its end or on that of the other
curve; shorter curves lie between them as far as there is room. All dashes keep a distance from each other. This was
written from that description and the parameters of the released generator (drewlinsley/pathfinder), which grows its
curves along pixels, where these have places of any fraction: images are of the same kind, but not the same.
"""

from typing import Annotated

import numpy as np

from arch import config
from arch.tasks import _classed_rows

AT_ONCE = 4096
"""Images that are drawn together."""
TRIES = 16
"""Places that a dash may have, of which it gets the first where there is room."""


@config.frozen
class Config(_classed_rows.Task):
    """Pathfinder, with the sizes of Long Range Arena; all lengths are in pixels.

    Attributes:
      size: of an image, in width and height.
      greys: levels of grey, from black to white.
      dashes: of each of the two curves.
      dash_length: of a dash.
      margin: half of the gap between two dashes of a curve that goes straight on.
      clearance: least distance between dashes but those that follow each other.
      thickness: of a dash.
      continuity: of a curve: how much less it turns than by at most a right angle.
      dot_radius: of the dots.
      start_distance: between the beginnings of the two curves, the first of which is twice as far from the border.
      distractors: shorter curves, as far as there is room.
      distractor_dashes: of each of them.
      train_rows: images of an epoch.
      valid_rows: images of an evaluation.
    """

    size: Annotated[int, config.Range(4)] = 32
    greys: Annotated[int, config.Range(2, 256)] = 256
    dashes: config.PositiveInt = 14
    dash_length: config.PositiveFloat = 2.0
    margin: config.PositiveFloat = 1.0
    clearance: config.PositiveFloat = 2.0
    thickness: config.PositiveFloat = 0.5
    continuity: Annotated[float, config.Range(1.0)] = 1.0
    dot_radius: config.PositiveFloat = 1.5
    start_distance: config.PositiveFloat = 7.0
    distractors: config.SizeOrZero = 5
    distractor_dashes: config.PositiveInt = 4
    train_rows: config.PositiveInt = 160_000
    valid_rows: config.PositiveInt = 20_000

    classes = ("no", "yes")

    @property
    def symbols(self) -> tuple[str, ...]:
        """The levels of grey."""
        return tuple(map(str, range(self.greys)))

    @property
    def seq_len(self) -> int:
        """The pixels."""
        return self.size**2

    def drawn(self) -> dict[str, _classed_rows.Rows]:
        """The images of both splits. Raises ValueError where there is no room for the curves."""
        generator, wanted = np.random.default_rng(self.draw_seed), self.train_rows + self.valid_rows
        images, classes = [], []
        while len(classes) < wanted:
            found, joined = self.draw(generator, AT_ONCE)
            if not len(found):
                rule = f"must leave room for two curves of dashes={self.dashes}: there was none in {AT_ONCE} draws"
                raise ValueError(f"size={self.size} {rule}")
            images += list(found.reshape(len(found), -1))
            classes += joined.tolist()
        return _classed_rows.split((images[:wanted], classes[:wanted]), self.train_rows, generator)

    def draw(self, generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Those of so many images in which the curves found room: uint8 [n size size], and bool [n] the classes."""
        curves = _Curves(self, generator, count)
        border = min(2 * self.start_distance, self.size / 2)
        first = generator.uniform(border, self.size - border, (count, 1, 2)) - 0.5
        second = first + self.start_distance * _unit(generator.uniform(0, 2 * np.pi, (count, 1)))
        one, other = curves.grow([first, second], self.dashes, all_or_none=True)
        joined = generator.random(curves.count) < 0.5
        for _ in range(self.distractors):
            start = generator.uniform(0, self.size - 1, (curves.count, TRIES, 2))
            curves.grow([start], self.distractor_dashes, all_or_none=False)
        last = np.where(joined[:, None], one[:, 1], other[:, 1])
        dots = np.stack([np.stack([place, place], axis=1) for place in (one[:, 0], last)], axis=1)
        dashes = np.stack(curves.dashes, axis=1)
        covered = _rendered([(dashes, self.thickness / 2), (dots, self.dot_radius)], self.size)
        return np.round((self.greys - 1) * covered).astype(np.uint8), joined


class _Curves:
    """Curves of dashes in many images, those of an image side by side.

    Attributes:
      count: of the images (n).
      dashes: [n 2 2] the tail and the head of each dash, as (row, column); NaN where an image has none.
    """

    def __init__(self, cfg: Config, generator: np.random.Generator, count: int):
        self._cfg, self._generator, self.count = cfg, generator, count
        self._along = np.linspace(0, cfg.dash_length, int(np.ceil(cfg.dash_length)) + 1)[:, None]
        self.dashes: list[np.ndarray] = []

    def grow(self, starts: list[np.ndarray], length: int, *, all_or_none: bool) -> list[np.ndarray]:
        """Curves of so many dashes from one of these places each [n tries 2], in turns.

        Where one finds no room, the image is given up, or with `all_or_none=False` goes without that curve.

        Returns:
          [n 2 2] the tail of the first dash, and the head of the last, of each curve.
        """
        cfg, draw = self._cfg, self._generator
        own = [[] for _ in starts]
        headings = [draw.uniform(0, 2 * np.pi, (self.count, TRIES)) for _ in starts]
        for _ in range(length):
            for j, start in enumerate(starts):
                dash = self._place(start, headings[j], own[j][-1:])
                own[j].append(len(self.dashes))
                self.dashes.append(dash)
                ahead = dash[:, 1] - dash[:, 0]
                starts[j] = (dash[:, 1] + ahead * (cfg.margin / cfg.dash_length))[:, None]
                chances, angles = draw.random((2, self.count, TRIES))
                turns = np.arcsin(np.sqrt(chances) * np.cos(2 * np.pi * angles)) / cfg.continuity  # cos^2
                headings[j] = np.arctan2(ahead[:, :1], ahead[:, 1:]) + turns
            if all_or_none:
                found = ~np.isnan([start[:, 0, 0] for start in starts]).any(axis=0)
                self.count, self.dashes = int(found.sum()), [dash[found] for dash in self.dashes]
                starts, headings = ([array[found] for array in arrays] for arrays in (starts, headings))
        none = np.isnan([start[:, 0, 0] for start in starts]).any(axis=0)
        for i in (i for curve in own for i in curve):
            self.dashes[i][none] = np.nan
        ends = [(self.dashes[curve[0]][:, 0], self.dashes[curve[-1]][:, 1]) for curve in own]
        return [np.stack(pair, axis=1) for pair in ends]

    def _place(self, starts: np.ndarray, headings: np.ndarray, before: list[int]) -> np.ndarray:
        """[n 2 2] the first of some dashes that is within the image and clear of all others but the one before it."""
        cfg, dash, left = self._cfg, np.full((self.count, 2, 2), np.nan), np.arange(self.count)
        others = [other for i, other in enumerate(self.dashes) if i not in before]
        for start, heading in zip(np.broadcast_to(starts.swapaxes(0, 1), (TRIES, self.count, 2)), headings.T):
            ahead = _unit(heading[left])[:, None]
            points = start[left][:, None] + ahead * (cfg.margin + self._along)
            fits = ((points >= 0) & (points <= cfg.size - 1)).all(axis=(1, 2))
            for other in others:
                fits &= ~(_distance(points, other[left]) < cfg.clearance).any(axis=1)
            dash[left[fits]] = points[fits][:, [0, -1]]
            left = left[~fits]
        return dash


def _unit(angles: np.ndarray) -> np.ndarray:
    """[... 2] (sine, cosine), which is the way from row and column that an angle points to."""
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1)


def _distance(points: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """[n p] how far points [n p 2] are from a line of their image, from lines[n 0] to lines[n 1]."""
    ahead, ways = (lines[:, 1] - lines[:, 0])[:, None], points - lines[:, :1]
    squared = np.maximum((ahead**2).sum(axis=2), 1e-12)
    along = np.clip((ways * ahead).sum(axis=2) / squared, 0, 1)
    return np.sqrt(((ways - along[..., None] * ahead) ** 2).sum(axis=2))


def _rendered(shapes: list[tuple[np.ndarray, float]], size: int) -> np.ndarray:
    """[n size size] of images of lines [n p 2 2], how far each pixel is covered by what reaches so far around them.

    A line that is NaN is left out.
    """
    count = len(shapes[0][0])
    image, rows = np.zeros((count, size * size), np.float32), np.arange(count)[:, None]
    for lines, reach in shapes:
        lengths = np.sqrt(((lines[:, :, 1] - lines[:, :, 0]) ** 2).sum(axis=2))
        half = int(np.ceil(np.nanmax(lengths, initial=0) / 2 + reach + 1))
        around = np.stack(np.mgrid[-half : half + 1, -half : half + 1], axis=-1).reshape(-1, 2)
        for line in lines.swapaxes(0, 1):
            middle = np.nan_to_num(np.round(line.mean(axis=1)), nan=-size)
            pixels = middle.astype(int)[:, None] + around
            covered = np.nan_to_num(np.clip(reach + 0.5 - _distance(pixels, line), 0, 1))
            covered *= ((pixels >= 0) & (pixels < size)).all(axis=2)
            places = (np.clip(pixels, 0, size - 1) * (size, 1)).sum(axis=2)
            np.maximum.at(image, (rows, places), covered)
    return image.reshape(count, size, size)
