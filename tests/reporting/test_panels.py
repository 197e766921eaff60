"""What stands under a picture, and that all of the picture can be seen."""

import pytest

from sppo_lightning.reporting.figures import panel_figure
from sppo_lightning.reporting.panels import panels_of
from sppo_lightning.reporting.record import RunRecord


def panel(tmp_path, metrics):
    (found,) = panels_of(RunRecord(path=tmp_path, metrics=metrics))
    return found


def test_a_gap_of_zero_is_never_called_safe(tmp_path):
    caption = panel(tmp_path, {"gap/best_of_n": {0: 0.1}, "gap/checkpoints": {0: 0.0}}).caption
    assert "Zero throughout: last policy, stored checkpoints only." in caption
    assert "a bound of 0 says nothing" in caption
    assert "however open it is" in caption
    assert "cannot be exploited" not in caption


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("round/length_correlation",), {0: -0.012, 1: -0.024}),
        (("gap/best_of_n",), {0: 0.0012, 1: 0.0049}),
        (("gap/best_of_n", "gap/best_of_n_mixture", "gap/best_of_n_average", "gap/exploiter"), {0: 0.001, 1: 0.002}),
        (("round/winner_log_ratio", "round/loser_log_ratio"), {0: -1234.5, 1: -5678.9}),
    ],
)
def test_no_label_is_cut(tmp_path, names, values):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = panel_figure(panel(tmp_path, dict.fromkeys(names, values)))
    FigureCanvasAgg(figure).draw()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()  # both in inches
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height
