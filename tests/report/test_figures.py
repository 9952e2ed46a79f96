"""Figures show the data they were given, in colours that all readers can tell apart."""

import itertools
import os
import subprocess
import sys

import pytest

from lottery_jax.report import axes, figures, heat, layers
from lottery_jax.report.panels import DenseLine, HeatCell, Line, Panel
from lottery_jax.report.steps import steps_figure
from tests.helpers import ROOT

X = (100.0, 10.0)
HEAT = (
    {"a": [HeatCell(0.0, "91.00", "± 1", framed=True)], "b": [HeatCell(-2.0, "-2.00")]},
    ["x"],
    "t",
    "s",
)


def panel(title=""):
    lines = (
        Line("published", (100.0, 0.1), (95.0, 10.0), marker=1, kind="reference"),
        Line("ticket", X, (91.0, 90.0), (1.0, 2.0), colour=0),
        Line("", (10.0,), (50.0,), (5.0,), colour=0, marker=1, kind="control"),
        Line("control", marker=1, kind="control"),
    )
    return Panel(title, lines, (DenseLine("dense network", 91.0),))


def texts(figure):
    (legend,) = [a.get_legend() for a in figure.axes if a.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


def test_lines_bands_and_legend_of_one_panel():
    figure = figures.accuracy_figure([panel()], "title", "2 seeds", "weights", ["A note."])
    (axes,) = figure.axes
    assert texts(figure) == ["ticket", "control", "dense network", "published"]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["ticket"].get_xdata()) == [100, 10]
    assert list(lines["ticket"].get_ydata()) == [91, 90]
    assert lines["ticket"].get_linestyle() == "-" and lines["control"].get_linestyle() == "--"
    assert lines["published"].get_zorder() < lines["ticket"].get_zorder()
    band = axes.collections[0].get_paths()[0].vertices
    assert {(10.0, 88.0), (10.0, 92.0), (100.0, 90.0)} <= {tuple(v) for v in band}
    left, right = axes.get_xlim()
    assert left > 100 and right < 0.1  # the published points lie inside
    assert axes.get_xlabel() == "weights remaining, log scale (100 %: weights)"
    assert figure.get_supxlabel() == "A note." and figure.get_suptitle() == "title"


def test_steps_without_a_limit_have_no_line():
    rows = [{"step": 0, "gap": 0.01, "gap_std": 0.0}, {"step": 2, "gap": 0.0, "gap_std": 0.0}]
    for limit in (0.2, None):
        (drawn,) = steps_figure(rows, "t", {"gap": ("error, %", limit)}).axes
        levels = [line.get_ydata()[0] for line in drawn.get_lines() if len(line.get_ydata()) == 2]
        assert (limit in levels, drawn.get_legend() is not None) == (limit == 0.2,) * 2


def test_panels_share_one_legend():
    figure = figures.accuracy_figure([panel("a"), panel("b")], "title", "2 seeds", "weights")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    assert texts(figure) == ["ticket", "control", "dense network", "published"]


@pytest.mark.parametrize("entries", [2, 20])
def test_the_legend_lies_beside_the_axes_and_nothing_is_cut_off(entries):
    lines = tuple(Line(f"a series with a long name, {i}", X, (90.0, i), colour=i, marker=i)
                  for i in range(entries))  # fmt: skip
    figure = figures.accuracy_figure(
        [Panel("", lines, ())], "title", "1 seed", "weights", ["note " * 60] * 3
    )
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend = axes.get_legend().get_window_extent()
    assert legend.x0 >= axes.get_window_extent().x1
    text = next(t for t in figure.texts if t.get_text().startswith("note"))
    notes = text.get_window_extent()
    assert notes.y1 <= legend.y0
    for box in (legend, notes, axes.get_tightbbox()):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1


def test_eight_series_differ_in_colour_and_in_marker():
    lines = tuple(Line(str(i), X, (90.0, i), colour=i, marker=i) for i in range(8))
    figure = figures.accuracy_figure([Panel("", lines, ())], "title", "1 seed", "weights")
    drawn = figure.axes[0].get_lines()
    assert len({line.get_color() for line in drawn}) == len({x.get_marker() for x in drawn}) == 8


# Machado et al. 2009: how people without one kind of cone see a colour, in linear RGB.
SEEN = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "no green": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "no blue": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}


def lab(colour, matrix):
    """Return the CIELAB coordinates of a hex colour, seen by such an eye."""
    srgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb]
    seen = [min(1, max(0, sum(m * c for m, c in zip(row, linear, strict=True)))) for row in matrix]
    to_xyz = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(m * c for m, c in zip(row, seen, strict=True)) for row in to_xyz]
    x, y, z = (
        v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116
        for v in (xyz[0] / 0.9505, xyz[1], xyz[2] / 1.089)
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("eye", SEEN)
def test_colour_blind_eyes_tell_the_palette_apart(eye):
    points = [lab(colour, SEEN[eye]) for colour in axes.COLOURS]
    for a, b in itertools.combinations(points, 2):
        assert sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 > 15


def test_a_layer_of_which_nothing_is_left_ends_early():
    pairs = {"conv": [(100.0, 100.0), (10.0, 20.0)], "head": [(100.0, 100.0), (10.0, 0.0)]}
    figure = layers.layer_figure(pairs, "title", "by layer", "weights")
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].get_lines()}
    assert lines["conv"] == [100, 20] and lines["head"] == [100]


def test_a_heat_map_is_centred_on_0_and_its_scale_leaves_out_the_row_apart():
    rows = {
        "a": [HeatCell(0.0, "91.00", "± 1", framed=True), HeatCell(-2.0, "-2.00")],
        "b": [HeatCell(None, "missing"), HeatCell(0.0, "80.00", framed=True)],
        "random": [HeatCell(-50.0, "-50"), HeatCell(-40.0, "-40")],
    }
    figure = heat.heat_figure(
        rows, ["x", "y"], "title", "subtitle", rows_apart=1, axis_labels=("from", "on", "points")
    )
    axes, bar = figure.axes
    low, high = bar.get_ylim()
    assert high == pytest.approx(2.4) and low == pytest.approx(-2.4)
    filled = [p for p in axes.patches if p.get_fill()]
    assert len(filled) == 6 and len(axes.patches) == 8  # two frames
    nothing, worse = filled[0].get_facecolor(), filled[1].get_facecolor()
    assert min(nothing[:3]) > 0.95 and worse[0] > 2 * worse[2]  # white, red
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "random"]
    assert {"91.00", "± 1", "missing"} <= {t.get_text() for t in axes.texts}


_DRAW = """
import sys
from pathlib import Path
from lottery_jax.report import figures, heat, layers
from tests.report.test_figures import HEAT, panel
out = Path(sys.argv[1])
figures.save(figures.accuracy_figure([panel()], "a title", "2 seeds", "weights"), out / "curve")
figures.save(layers.layer_figure({"a": [(100.0, 99.0)]}, "a title", "b", "weights"), out / "layers")
figures.save(heat.heat_figure(*HEAT, rows_apart=1, axis_labels=("from", "on", "points")), out / "heat")
"""
_RC = """
backend: nonsense
text.usetex: True
font.family: a font that nobody has
font.size: 30
lines.linewidth: 9
axes.prop_cycle: cycler("color", ["r"])
axes.grid.axis: x
axes.formatter.use_locale: True
figure.autolayout: True
savefig.bbox: tight
savefig.transparent: True
svg.fonttype: none
"""


@pytest.mark.long
def test_a_users_own_settings_of_matplotlib_change_nothing(tmp_path):
    """A user may have a style for papers, which may even need LaTeX."""
    (tmp_path / "matplotlibrc").write_text(_RC)  # Matplotlib reads it from the working directory
    drawn = []
    for name, cwd, more in (("as_it_is", ROOT, {}), ("own", tmp_path, {"MPLBACKEND": "nonsense"})):
        (tmp_path / name).mkdir()
        env = {k: v for k, v in os.environ.items() if not k.startswith("MPL")}
        env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")]), **more}
        command = [sys.executable, "-c", _DRAW, str(tmp_path / name)]
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        drawn.append({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()})
    assert len(drawn[0]) == 6 and drawn[0] == drawn[1]


def test_drawing_changes_no_setting_of_the_users(tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "axes.grid": True}):
        before = dict(mpl.rcParams.copy())
        figures.save(figures.accuracy_figure([panel()], "t", "2 seeds", "w"), tmp_path / "a")
        assert dict(mpl.rcParams.copy()) == before


def test_saving_twice_gives_the_same_files(tmp_path):
    def save(stem):
        figure = figures.accuracy_figure([panel()], "title", "2 seeds", "weights")
        return [file.read_bytes() for file in figures.save(figure, tmp_path / stem)]

    assert save("a") == save("b")
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.svg", "b.png", "b.svg"}
