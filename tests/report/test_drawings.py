"""Networks on a line, a plane and in space, and probes over what they draw."""

import dataclasses
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from conftest import REPO
from PIL import Image

from probegen_jax.describe_zoo import main as describe
from probegen_jax.errors import UserError
from probegen_jax.networks.siren import SirenSpec
from probegen_jax.report import contact_sheet, figures, pictures
from probegen_jax.report.drawings import draw
from probegen_jax.zoo import own

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = {1: (40,), 2: (6, 9), 3: (5, 6, 7)}


def drawings_of(dims, sized=True):
    """What two networks of a zoo draw."""
    spec = SirenSpec(hidden=(4,), in_dim=dims)
    weights = np.random.default_rng(0).standard_normal((20, spec.num_weights)).astype(np.float32)
    zoo = own.from_arrays("a", spec, weights, np.arange(20) % 2, task="classification")
    zoo = dataclasses.replace(zoo, image_shape=SHAPES[dims] if sized else None)
    return zoo, list(draw(zoo, [3, 8], ["1", "0"]).values())


@pytest.mark.parametrize("sized", [True, False])
def test_a_network_in_space_is_shown_by_its_means(sized):
    zoo, drawings = drawings_of(3, sized)
    sides = SHAPES[3] if sized else (32, 32, 32)
    drawn = zoo.spec.render(zoo.read(np.array([3, 8])), *sides)
    for values, drawing in zip(drawn, drawings, strict=True):
        assert [view.axes for view in drawing.views] == [(2, 1), (2, 0), (1, 0)]
        for axis, view in enumerate(drawing.views):
            across, down = view.axes
            assert view.values.shape == (sides[down], sides[across], 1)
            assert (view.values.min(), view.values.max()) == (0, 1)
            mean = values.mean(axis=axis)
            assert np.corrcoef(mean.ravel(), view.values.ravel())[0, 1] > 0.999


def test_a_network_on_a_line_is_a_curve_and_other_dimensions_are_not_drawn():
    zoo, drawings = drawings_of(1)
    (view,) = drawings[0].views
    expected = zoo.spec.render(zoo.read(np.array([3])), 40)
    np.testing.assert_array_equal(view.values, expected[0])
    spec = SirenSpec(hidden=(4,), in_dim=4)
    weights = np.zeros((20, spec.num_weights), np.float32)
    four = own.from_arrays("a", spec, weights, np.arange(20) % 2, task="classification")
    assert draw(four, [0], ["0"]) == {}


@pytest.mark.parametrize("channels", [2, 4])
def test_values_that_are_no_colour_are_drawn_as_their_mean(channels, tmp_path):
    spec = SirenSpec(hidden=(4,), out_dim=channels)
    weights = np.random.default_rng(0).standard_normal((20, spec.num_weights)).astype(np.float32)
    zoo = own.from_arrays("a", spec, weights, np.arange(20) % 2, task="classification")
    (drawing,) = draw(zoo, [3], ["1"]).values()
    values = spec.render(zoo.read(np.array([3])), 64, 64)[0]
    np.testing.assert_array_equal(drawing.views[0].values[..., 0], values.mean(axis=-1))
    figures.draw_probes(tmp_path / "probes.png", np.zeros((3, 2), np.float32), [drawing])
    with Image.open(tmp_path / "probes.png") as image:
        assert image.size[0] > 100


@pytest.mark.parametrize("dims", SHAPES)
def test_probes_lie_where_their_coordinates_say(dims, tmp_path):
    _, drawings = drawings_of(dims)
    probes = np.random.default_rng(1).uniform(-1, 1, (7, dims)).astype(np.float32)
    probes[0] = 5.0  # beyond what is shown
    svg = ET.fromstring(pictures.plane_svg(drawings[0], probes))
    assert svg.get("aria-label") == "Drawing of network 3, target 1, with 6 probes on it"
    views = [svg] if dims < 3 else svg.findall(f"{SVG}g")
    assert len(views) == len(drawings[0].views)
    for group, view in zip(views, drawings[0].views, strict=True):
        circles = group.findall(f"{SVG}circle")
        found = [[float(circle.get(key)) for key in ("cx", "cy")] for circle in circles]
        places = (probes[1:, view.axes] + 1.2) / 2.4 * 200
        np.testing.assert_allclose(np.array(found)[:, : len(view.axes)], places, atol=0.06)
        assert len(group.findall(f"{SVG}polyline")) == (dims == 1)
        assert len(group.findall(f"{SVG}image")) == (dims > 1)
        if dims == 1:  # on the curve, which fills the height
            heights = [-y for _, y in found]
            value = np.interp(probes[1:, 0], np.linspace(-1, 1, 40), view.values[:, 0])
            assert np.corrcoef(heights, value)[0, 1] > 0.999
    figures.draw_probes(tmp_path / "probes.png", probes, drawings)
    picture = np.asarray(Image.open(tmp_path / "probes.png").convert("RGB"))
    assert min(picture.shape[:2]) > 100 and picture.std() > 10


@pytest.mark.parametrize("dims", SHAPES)
def test_a_contact_sheet_has_a_row_for_each_class(dims, tmp_path):
    zoo, _ = drawings_of(dims)
    groups = contact_sheet.groups_of(dataclasses.replace(zoo, class_names=("<a>", "b")))
    assert [(name, len(drawings)) for name, drawings in groups] == [("<a>", 8), ("b", 8)]
    assert all(drawing.target == name for name, drawings in groups for drawing in drawings)
    (view,) = groups[1][1][0].views
    rows = np.array([groups[1][1][0].row])
    assert zoo.targets_N[rows] == 1
    (expected,) = zoo.spec.render(zoo.read(rows), *SHAPES[dims])
    np.testing.assert_array_equal(view.values, expected[2] if dims == 3 else expected)
    figures.save(figures.draw_groups(groups), tmp_path / "zoo.png")
    picture = np.asarray(Image.open(tmp_path / "zoo.png").convert("RGB"))
    assert picture.shape[1] > 3 * picture.shape[0] and picture.std() > 10
    page = contact_sheet.page(zoo, ["counts <here>"], ["misread & so on"], groups)
    svgs = re.findall(r"<svg.*?</svg>", page)
    assert len(svgs) == 16 and all(ET.fromstring(svg).tag == f"{SVG}svg" for svg in svgs)
    for escaped in ("<h3>&lt;a&gt;</h3>", "counts &lt;here&gt;", "misread &amp; so on"):
        assert escaped in page


def test_a_contact_sheet_of_values_has_bands_and_one_of_several_classes_all():
    zoo, _ = drawings_of(2)
    values = dataclasses.replace(
        zoo, task="regression", num_outputs=1, targets_N=np.linspace(1, 0, 20, dtype=np.float32)
    )
    groups = contact_sheet.groups_of(values)
    assert [name for name, _ in groups][::4] == ["0 to 0.158", "0.842 to 1"]
    assert [drawing.row for drawing in groups[0][1]] == [19, 18, 17, 16]
    has_NxC = np.zeros((20, 3), np.int8)
    has_NxC[3] = has_NxC[5, 0] = 1
    several = dataclasses.replace(zoo, task="multilabel", num_outputs=3, targets_N=has_NxC)
    rows = {name: [each.row for each in of] for name, of in contact_sheet.groups_of(several)}
    assert rows == {"0": [3, 5], "1": [3], "2": [3]}


def test_a_zoo_is_drawn_without_training(tmp_path, capsys, built_zoos_dir):
    out = tmp_path / "new" / "zoo.png"
    for family, config in (("inr", "mnist"), ("cnn", "cifar10_wild_park")):
        zoo = f"--config.zoo_dir={built_zoos_dir / family}"
        argv = ["x", f"--config={REPO}/configs/{config}.py", zoo, f"--out={out}"]
        if family == "inr":
            describe(argv)
            shown = capsys.readouterr().out
            assert shown.endswith(f"wrote {out}\n") and "PSNR in dB: mean " in shown
            assert np.asarray(Image.open(out).convert("RGB")).std() > 10
            out.unlink()
        else:
            with pytest.raises(UserError, match="draw nothing; leave out --out"):
                describe(argv)
    assert not out.exists()
    with pytest.raises(UserError, match=r"is a folder; give a file, as in --out=zoo\.png"):
        describe([*argv[:-1], f"--out={tmp_path}"])
