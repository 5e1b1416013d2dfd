"""The figure of attention against the length is that of the kept data, and says what it shows."""

import json
import xml.etree.ElementTree as ElementTree

from benchmarks import attention_figure, measure

DATA = measure.RESULTS / "attention_scaling-cpu.json"
ROWS = [dict(length=1024 * 2**i, least_ms=10.0 * 2**i, temporary_mib=3.0 * 4**i) for i in range(4)]
KEPT = {"python -m benchmarks.attention_scaling longformer": dict(rows=ROWS, exponents=dict(time=1.0, temporaries=2.0))}


def elements(svg, kind):
    return ElementTree.fromstring(svg).iter(f"{{http://www.w3.org/2000/svg}}{kind}")


def test_the_kept_figure_is_that_of_the_kept_data():
    assert DATA.with_suffix(".svg").read_text() == attention_figure.figure(json.loads(DATA.read_text()))


def test_each_row_is_a_point_of_each_panel():
    assert len(list(elements(attention_figure.figure(KEPT), "circle"))) == 2 * len(ROWS)


def test_a_power_is_a_straight_line_of_its_slope():
    first, second = elements(attention_figure.figure(KEPT), "polyline")
    for line, decades in ((first, 1), (second, 3)):  # 10 ms to 80 ms and 3 to 192 MiB, on axes of so many decades
        points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        steps = {round(before[1] - after[1]) for before, after in zip(points, points[1:])}
        slope = 1 if decades == 1 else 2
        assert len(steps) <= 2 and abs(min(steps) - slope * 0.30103 * attention_figure.HEIGHT / decades) <= 1


def test_what_was_measured_at_one_length_only_is_a_point():
    beside = {"python -m benchmarks.attention_scaling 16k": dict(length=16384, rows=dict(dense=ROWS[0] | ROWS[1]))}
    assert len(list(elements(attention_figure.figure(KEPT | beside), "circle"))) == 2 * len(ROWS) + 2


def test_forms_are_named_with_their_exponents():
    texts = [element.text for element in elements(attention_figure.figure(KEPT), "text")]
    assert "Longformer (N^1.00, N^2.00)" in texts
