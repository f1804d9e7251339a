"""Figures: what is drawn in which panel, that nothing is drawn where nothing was found, and that they can be read."""

import itertools
import math
import re

import pytest
from fakes.report_runs import H200, accuracy, failed, incorrect, ok, unsupported, write_run

from attnbench.case import forward_flops
from attnbench.records import store
from attnbench.records.measurement import Block
from attnbench.records.stats import median_interval
from attnbench.report import plots
from attnbench.report.data import gather
from attnbench.report.panels import error_panels, rate_panels

LENGTHS = (512, 1024, 2048)


def data_of(tmp_path, records, environment=H200):
    return gather([store.read(write_run(tmp_path / "run", records, environment))])


def sweep(backend, lengths=LENGTHS, **fields):
    return [ok(backend, seqlen * 1e-6, seqlen=seqlen, **fields) for seqlen in lengths]


def test_rate_panel_holds_the_rates(tmp_path):
    records = [*sweep("fa2"), *sweep("fa3", LENGTHS[:2])]
    (panel,) = rate_panels(data_of(tmp_path, records))
    assert panel.title == "head_dim 128, full, 16 heads" and panel.dtype == "bf16"
    expected = [(record.case.seqlen_k, forward_flops(record.case) / record.case.seqlen_k / 1e6) for record in records]
    assert [point[0] for point in panel.lines["fa2"]] == list(LENGTHS)
    assert [value for _, value in panel.lines["fa2"]] == pytest.approx([rate for _, rate in expected[:3]])
    assert len(panel.lines["fa3"]) == 2
    assert panel.peak == 132 * 1.83e9 * 4096


def test_a_failed_length_breaks_the_line(tmp_path):
    records = [*sweep("fa2"), *sweep("fa3", (512, 2048)), failed("fa3", "oom", "full", seqlen=1024)]
    records += [unsupported("flex", "no", seqlen=seqlen) for seqlen in LENGTHS]
    (panel,) = rate_panels(data_of(tmp_path, records))
    assert [math.isnan(value) for _, value in panel.lines["fa3"]] == [False, True, False]
    assert "flex" not in panel.lines


def test_one_length_is_no_line(tmp_path):
    records = [*sweep("fa2", (512,)), failed("fa2", "oom", "full", seqlen=1024)]
    assert rate_panels(data_of(tmp_path, records)) == []


def test_other_heads_masks_inputs_and_schemes_get_panels_of_their_own(tmp_path):
    records = [
        *sweep("fa3"), *sweep("fa3", causal=True), *sweep("fa3", num_heads_kv=4), *sweep("fa3", inputs="outliers"),
        *sweep("fa3", dtype="e4m3"), *sweep("fa3", dtype="e4m3", hadamard=True),
    ]  # fmt: skip
    titles = [(panel.dtype, panel.title) for panel in rate_panels(data_of(tmp_path, records))]
    assert sorted(titles) == sorted([
        ("bf16", "head_dim 128, full, 16 heads, normal inputs"),
        ("bf16", "head_dim 128, full, 16 heads, outliers inputs"),
        ("bf16", "head_dim 128, causal, 16 heads"),
        ("bf16", "head_dim 128, full, 16 heads over 4 of k and v"),
        ("e4m3", "head_dim 128, full, 16 heads, hadamard off"),
        ("e4m3", "head_dim 128, full, 16 heads, hadamard on"),
    ])  # fmt: skip


def test_batch_may_fall_with_length_but_not_vary_at_one_length(tmp_path):
    falling = [ok("fa3", 1e-3, seqlen=seqlen, batch=2048 // seqlen) for seqlen in LENGTHS]
    (panel,) = rate_panels(data_of(tmp_path / "a", falling))
    assert len(panel.lines["fa3"]) == 3
    crossed = [*sweep("fa3", batch=1), *sweep("fa3", batch=8)]
    titles = [panel.title for panel in rate_panels(data_of(tmp_path / "b", crossed))]
    assert [title.split(", ")[-1] for title in titles] == ["batch 1", "batch 8"]


def test_decode_shapes_stand_apart_from_square_ones(tmp_path):
    decode = [ok("fa3", 1e-3, seqlen=None, seqlen_q=1, seqlen_k=seqlen) for seqlen in LENGTHS]
    titles = [panel.title for panel in rate_panels(data_of(tmp_path, [*sweep("fa3"), *decode]))]
    assert titles == ["head_dim 128, full, 16 heads", "head_dim 128, full, 16 heads, seqlen_q 1"]


def test_error_panel_shows_limit_eager_and_what_failed(tmp_path):
    records = [ok("fa2", None, accuracy(1e-3, 3e-3), seqlen=512), ok("fa2", None, accuracy(0.0), seqlen=1024)]
    records += [incorrect("fa2", seqlen=2048)]
    (panel,) = error_panels(data_of(tmp_path, records))
    (first, second, third) = panel.lines["fa2"]
    assert first == (512, 1e-3) and third == (2048, 0.04)
    assert math.isnan(second[1])  # an error of exactly zero has no place on a logarithmic axis
    assert panel.failed == ((2048, 0.04),)
    assert panel.quiet["lowest limit"] == ((512, 3e-3), (1024, 3e-3), (2048, 3e-3))
    assert panel.quiet["eager reference"][0] == (512, pytest.approx(2e-3))


def test_every_dtype_gets_a_figure_before_any_gets_its_second(tmp_path, monkeypatch):
    monkeypatch.setitem(plots.ALLOWED, "tflops", (2, 1))
    records = [*sweep("fa3"), *sweep("fa3", causal=True), *sweep("fa3", dtype="e4m3")]
    shown = plots.rate_plots(data_of(tmp_path, records), tmp_path / "plots")
    assert [path.name for path in sorted((tmp_path / "plots").iterdir())] == ["tflops-bf16-1.svg", "tflops-e4m3-1.svg"]
    assert shown[-1] == "Drawn: 2 of 3 plots of TFLOPS; the tables hold the rest."
    assert shown[0] == "![TFLOPS against seqlen, bf16: fa3](plots/tflops-bf16-1.svg)"


def test_panels_with_the_most_lengths_are_drawn_first(tmp_path, monkeypatch):
    """A sweep says more than two points of a model's shape, whatever its family sorts by."""
    monkeypatch.setitem(plots.ALLOWED, "tflops", (1, 1))
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda panels, *rest: drawn.extend(panel.title for panel in panels))
    records = [*sweep("fa3", LENGTHS[:2], head_dim=64), *sweep("fa3"), *sweep("fa3", LENGTHS[:2], head_dim=256)]
    plots.rate_plots(data_of(tmp_path, records), tmp_path / "plots")
    assert drawn == ["head_dim 128, full, 16 heads"]
    monkeypatch.setitem(plots.ALLOWED, "error", (1, 1))
    wrong = [incorrect("fa2", seqlen=seqlen, head_dim=256) for seqlen in LENGTHS[:2]]
    plots.error_plots(data_of(tmp_path / "wrong", [*records, *wrong]), tmp_path / "plots")
    assert drawn[1:] == ["head_dim 256, full, 16 heads"]  # what failed is never left out for what did not


def test_intervals_are_drawn_where_they_can_be_seen(tmp_path):
    """Of medians known to within 1 % none; of others both ends, as rates."""
    samples = tuple(1e-3 * (1 + 0.02 * (index % 11 - 5)) for index in range(60))
    wide = ok("fa3", 1e-3, timing={"blocks": (Block(samples, 60),)}, seqlen=512)
    data = data_of(tmp_path, [wide, *sweep("fa3", LENGTHS[1:]), *sweep("fa2")])
    (panel,) = rate_panels(data)
    interval = median_interval(wide.measurement)
    ends = [forward_flops(wide.case) / end / 1e12 for end in (interval.high_s, interval.low_s)]
    assert panel.spans == {"fa3": ((512, *ends),)} and ends[0] < panel.lines["fa3"][0][1] < ends[1]
    assert [line.get_label() for line in plots._legend([panel], data.series)][-1] == "interval of the median"
    (other,) = rate_panels(data_of(tmp_path / "narrow", sweep("fa2")))
    assert other.spans == {} and len(plots._legend([other], ("fa2",))) == 1


def test_a_large_report_draws_fewer(tmp_path, monkeypatch):
    monkeypatch.setitem(plots.ALLOWED_LARGE, "tflops", (1, 1))
    data = data_of(tmp_path, [*sweep("fa3"), *sweep("fa3", causal=True)])
    assert "Drawn" not in plots.rate_plots(data, tmp_path / "all")[-1]
    monkeypatch.setattr(plots, "LARGE", 5)
    assert plots.rate_plots(data, tmp_path / "few")[-1].startswith("Drawn: 1 of 2 plots of TFLOPS")


def test_a_figure_carries_its_own_light_card_and_no_date(tmp_path):
    plots.rate_plots(data_of(tmp_path, sweep("fa3")), tmp_path)
    text = (tmp_path / "tflops-bf16-1.svg").read_text()
    background = re.search(r'<g id="patch_1">\s*<path d="([^"]+)" style="fill: (#\w+)', text)
    assert background.group(2) == plots.CARD and "opacity: 0" not in background.group(0)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()
    assert f"L {width} {height}" in background.group(1)  # it reaches the far corner
    assert "<dc:date>" not in text and "<text" not in text  # glyphs are paths: no viewer's fonts matter


def luminance(colour):
    """Relative luminance of WCAG 2.1."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_stand_out(tmp_path):
    assert contrast(plots.INK, plots.CARD) >= 7 and contrast(plots.QUIET, plots.CARD) >= 4.5
    assert all(contrast(colour, plots.PANEL) >= 2 for colour in plots.COLOURS)


@pytest.mark.parametrize("low, high", [(0.001, 0.03), (0.7e-3, 1.5e-3), (0.77e-2, 1.65e-2), (1e-5, 0.3), (3e-4, 0.9)])
def test_logarithmic_ticks_are_few_round_and_never_none(low, high):
    ticks = plots.logarithmic_ticks(low, high)
    assert 1 <= len(ticks) <= 7 and ticks == sorted(ticks)
    assert all(low <= tick <= high and len(f"{tick:.1e}") == len("1.5e-03") for tick in ticks)
    widths = [math.log(two / one) / math.log(high / low) for one, two in itertools.pairwise(ticks)]
    assert all(width > 0.06 for width in widths)  # no two labels run into each other


@pytest.mark.parametrize("lengths, ticks", [
    ((128, 256, 512, 1024, 2048), [128, 256, 512, 1024, 2048]),
    ((1, 2, 3, 63, 64, 113, 127, 128, 129, 255, 1023, 1025), [1, 3, 113, 255, 1025]),
    (tuple(2**power for power in range(17)), [2**power for power in range(0, 17, 2)]), ((512,), [512]), ((), []),
])  # fmt: skip
def test_labels_of_lengths_do_not_run_into_each_other(lengths, ticks):
    found = plots.spread_ticks(lengths)
    assert found == ticks
    gaps = [math.log2(two / one) for one, two in itertools.pairwise(found)]
    assert not gaps or min(gaps) >= plots.LABEL_SHARE * math.log2(lengths[-1] / lengths[0])


def test_no_two_series_look_alike():
    styles = [plots._style(index) for index in range(60)]
    looks = {(style["color"], style["marker"], style["dashes"]) for style in styles}
    assert len(looks) == 60
    neighbours = itertools.pairwise(styles)
    assert all(one["color"] != two["color"] and one["marker"] != two["marker"] for one, two in neighbours)
