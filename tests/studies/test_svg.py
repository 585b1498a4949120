"""Charts: what is drawn is where its number is."""

import re
import xml.etree.ElementTree as ET

import pytest

from holdfast.studies.svg import BOTTOM, HEIGHT, TOP, Panel, Series, draw, over_seeds, ticks


def heights(svg):
    return [float(h) for h in re.findall(r'height="([\d.]+)" fill="#0072b2"', svg)]


def test_bars_are_as_high_as_their_numbers():
    bars = Series("a", [0, 1], [25.0, 50.0])
    svg = draw([Panel("t", "x", "y", [bars], y_range=(0, 100), names=["one", "two"])])
    assert heights(svg) == pytest.approx([0.25 * (HEIGHT - TOP - BOTTOM), 0.5 * 182], abs=0.06)


def test_a_line_goes_from_the_first_number_to_the_last_and_leaves_out_holes():
    line = Series("a", [0, 1, 2], [0.0, float("nan"), 10.0])
    svg = draw([Panel("t", "x", "y", [line])])
    path = re.search(r'd="M([^"]*)" fill="none" stroke="#0072b2"', svg)
    assert path is not None
    points = [tuple(map(float, p.split())) for p in path[1].split("L")]
    assert points == [(58.0, HEIGHT - BOTTOM), (748.0, TOP)]


def test_points_stand_where_their_numbers_are_inside_the_axes():
    points = [Series("a", [0], [0.0]), Series("b", [10], [100.0])]
    svg = draw([Panel("t", "x", "y", points, y_range=(0, 100), points=True)])
    found = [tuple(map(float, at)) for at in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    width = (748 - 58) / 11  # of 11 units, half a unit of room on either side
    assert found[0] == pytest.approx((58 + width / 2, HEIGHT - BOTTOM), abs=0.06)
    assert found[1] == pytest.approx((748 - width / 2, TOP), abs=0.06)


def test_a_picture_is_xml_whatever_the_names_are():
    lines = [Series(label, [0, 1], [1, 2], [0.1, 0.1]) for label in ("<b>", "a & b")]
    root = ET.fromstring(draw([Panel("<t>", "&", '"', lines, marks=[0.5], level=1.5)]))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert {"<b>", "a & b", "<t>", "&", '"'} <= set(texts)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 640), (-3.2, 17), (0.2, 0.21)])
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 9
    assert low - 1e-9 <= found[0]
    assert found[-1] <= high + 1e-9


def test_labels_of_points_that_are_close_lie_apart_and_lead_to_their_points():
    close = [Series(f"label {i}", [50.0 + 0.1 * i], [50.0]) for i in range(8)]
    far = [Series("alone", [0.0], [0.0]), Series("other", [100.0], [100.0])]
    svg = draw([Panel("t", "x", "y", [*close, *far], points=True)])
    texts = re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)" font-size="11">([^<]+)', svg
    )
    assert {label for *_, label in texts} == {s.label for s in [*close, *far]}
    boxes = []
    for x, y, anchor, label in texts:
        left = float(x) - (5.8 * len(label) if anchor == "end" else 0)
        boxes.append((left, left + 5.8 * len(label), float(y) - 10, float(y) + 2))
    for at, (l0, r0, t0, b0) in enumerate(boxes):
        for l1, r1, t1, b1 in boxes[at + 1 :]:
            assert r0 <= l1 + 0.2 or r1 <= l0 + 0.2 or b0 <= t1 + 0.2 or b1 <= t0 + 0.2
    assert svg.count('stroke="#aaa"') >= 6  # the level place is one label's; alone needs no line


def test_a_series_over_seeds_has_means_and_the_interval_of_student():
    found = over_seeds("a", [1, 2], iter([[0.1, 0.2, 0.3], [0.5, 0.5, 0.5]]), 100)
    assert (found.label, found.x) == ("a", [1, 2])
    assert found.y == pytest.approx([20.0, 50.0])
    # 4.303, of two degrees of freedom, times 10 / sqrt(3).
    assert found.half == pytest.approx([24.84, 0.0], abs=0.01)
