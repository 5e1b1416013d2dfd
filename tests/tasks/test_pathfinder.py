"""Pathfinder's images: the class is whether one dashed curve joins the dots, as tracing it pixel by pixel finds."""

import functools

import numpy as np
import pytest

from arch.tasks import pathfinder
from arch.train import experiment

WIDE = pathfinder.Config(
    size=64, dashes=4, dash_length=4.0, margin=0.75, clearance=6.0, thickness=0.8, dot_radius=1.3, start_distance=11.0,
    distractors=2, distractor_dashes=2,
)  # fmt: skip
SMALL = pathfinder.Config(size=19, dashes=3, dash_length=1.5, start_distance=4.0, distractors=1, distractor_dashes=2,
                          train_rows=31, valid_rows=7)  # fmt: skip
JUMP = 3.1
"""Pixels: more than a gap within a curve of WIDE, less than between curves."""


@functools.cache
def images():
    return WIDE.draw(np.random.default_rng(0), 211)


def pieces(lit):
    """A number for each of these pixels [n 2]: the same for those that lead to each other by steps of JUMP at most."""
    near = ((lit[:, None] - lit[None]) ** 2).sum(axis=2) <= JUMP**2
    numbers = np.arange(len(lit))
    while True:
        least = np.where(near, numbers, len(lit)).min(axis=1)
        if np.array_equal(least, numbers):
            return numbers
        numbers = least


def test_the_dots_are_joined_by_a_curve_where_the_class_says_so():
    found, joined = images()
    assert len(found) > 40
    for image, yes in zip(found, joined):
        lit = np.argwhere(image > 60)
        numbers = pieces(lit)
        dots = numbers[image[tuple(lit.T)] == 255]
        assert (len(set(dots)) == 1) == yes and 2 <= len(set(numbers)) <= 4


def test_classes_are_balanced_and_an_image_has_two_dots():
    found, joined = images()
    assert abs(joined.mean() - 0.5) < 4 * 0.5 / len(joined) ** 0.5
    for image in found:
        bright = np.argwhere(image == 255)
        far = np.sqrt(((bright[:, None] - bright[None]) ** 2).sum(axis=2))
        assert far.max() > 2 * WIDE.dot_radius and np.all((far < 3) | (far > far.max() - 3))


def test_turns_have_the_density_of_a_squared_cosine():
    curves = pathfinder._Curves(WIDE.replace(size=4096, clearance=0.001), np.random.default_rng(1), 4001)
    curves.grow([np.full((4001, 1, 2), 2048.0)], 2, all_or_none=True)
    one, other = (dash[:, 1] - dash[:, 0] for dash in curves.dashes)
    turns = np.arccos(np.clip((one * other).sum(axis=1) / 16, -1, 1))
    assert len(turns) == 4001 and turns.max() <= np.pi / 2
    assert abs(np.mean(turns**2) - (np.pi**2 / 12 - 0.5)) < 0.03  # of cos(x)^2 between -pi/2 and pi/2


def test_a_pixel_is_as_bright_as_it_is_covered():
    line = np.array([[[[2.0, 1.0], [2.0, 4.0]]]])
    image = pathfinder._rendered([(line, 0.25), (np.full((1, 1, 2, 2), np.nan), 0.25)], 6)[0]
    assert image[2].tolist() == [0, 0.75, 0.75, 0.75, 0.75, 0] and image.sum() == 3


def test_rows_are_pixels_and_a_function_of_the_seed(monkeypatch):
    monkeypatch.setattr(pathfinder, "AT_ONCE", 256)
    one, same, other = SMALL.drawn(), SMALL.drawn(), SMALL.replace(draw_seed=1).drawn()
    for split, count in (("train", 31), ("valid", 7)):
        assert len(one[split][0]) == len(one[split][1]) == count
        assert np.array_equal(one[split][0], same[split][0]) and one[split][1] == same[split][1]
        assert not np.array_equal(one[split][0], other[split][0])
    assert {row.shape for row in one["train"][0]} == {(SMALL.seq_len,)} == {(361,)}


def test_greys_are_as_many_as_asked_for():
    few, many = (task.draw(np.random.default_rng(0), 64)[0] for task in (SMALL.replace(greys=4), SMALL))
    assert set(np.unique(few)) == {0, 1, 2, 3} and np.array_equal(few, np.round(many / 85)) and many.max() == 255


def test_the_benchmarks_images_are_the_default_and_can_be_drawn():
    image, _ = pathfinder.Config().draw(np.random.default_rng(0), 512)
    assert len(image) > 1 and image.shape[1:] == (32, 32)


def test_curves_without_room_are_refused(monkeypatch):
    monkeypatch.setattr(pathfinder, "AT_ONCE", 64)
    with pytest.raises(ValueError, match="size=8 must leave room for two curves of dashes=14"):
        pathfinder.Config(size=8).own_data()


def test_the_class_is_read_from_the_mean_of_the_pixels():
    layers = dict(pattern=(dict(sublayers=(dict(name="attention", num_heads=1, head_dim=2, causal=False),)),))
    model = dict(name="encoder", vocab_size=256, embed_dim=2, layers=layers)
    fields = dict(task=SMALL, seq_len=SMALL.seq_len, batch_size=8, total_steps=1)
    head = lambda pool: dict(name="row_classification", pool=pool)
    of = lambda pool: experiment.from_dict(fields | dict(model=model | dict(head=head(pool)))).model
    SMALL.must_suit(of("mean"), seq_len=SMALL.seq_len)
    with pytest.raises(ValueError, match="model.head must be a row_classification of pool='mean' with task"):
        SMALL.must_suit(of("first"), seq_len=SMALL.seq_len)
