"""The page of a comparison: complete in itself, escaped, and shown by a real browser."""

import base64
import builtins
import dataclasses
import html.parser
import io
import itertools
import json
import re
import shutil
import subprocess
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from matplotlib import image as images
from matplotlib.figure import Figure

import keras_kd as kd
from keras_kd.evaluation import plots
from keras_kd.evaluation.disagreements import Disagreement
from tests.models import batch, dense, linear

#: A name that would run in a page that does not escape it, or close the element that contains it.
#: Between the dollars is no formula: code that reads it as one fails.
NAUGHTY = "$\\x$</title><script>window.ran = 1</script>'\"><img src=x onerror='window.ran = 1'>"
COLORS = {"teacher": "#3c4454", "alone": "#0b7a75", NAUGHTY: "#d1495b"}
CLASSES = ["cat", r"$\x$", "<i>owl</i>"]

SECTIONS = (
    *("Numbers", "Accuracy against size and time", "Learning curves", "Reliability"),
    *("Confusions that differ from the teacher&#x27;s", "Classes", "Where student and teacher disagree most"),
)


def small(seed):
    x = keras.Input((6, 6, 1))
    return keras.Model(x, dense(3, seed)(keras.layers.Flatten()(x)))


@pytest.fixture(scope="module")
def comparison():
    random = np.random.default_rng(0)
    x, y = random.random((40, 6, 6, 1)).astype("float32"), random.integers(0, 3, 40)
    models = {name: small(seed) for seed, name in enumerate(COLORS)}
    histories = {
        name: {"loss": [3.0, 2.0 + k, 1.0 + k], "val_loss": [3.5, 2.5 + k, 2.2 + k], r"<b>$\x$": [1.0 + k]}
        for k, name in enumerate(models)
    }
    return kd.compare(
        models, (x, y), rounds=10, memory=False, histories=histories, class_names=CLASSES, top_k=2, worst=3
    )


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    return comparison.to_html(tmp_path_factory.mktemp("page") / "comparison.html")


class Read(html.parser.HTMLParser):
    """Collects the tags of a page with their attributes, its text, and whether each is closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text


@pytest.mark.slow
def test_the_page_shows_every_plot_table_and_example(page, comparison):
    read, text = Read(page), page.read_text(encoding="utf-8")
    assert read.open == []
    assert [re.sub("<.*?>", "", part) for part in re.findall("<h2>(.*?)</h2>", text)] == list(SECTIONS)
    drawn = [attributes for tag, attributes in read.tags if tag == "img" and attributes["class"] == "plot"]
    # Three against size and time, a reliability diagram each, loss and <b> by epoch, two confusions.
    assert len(drawn) == 3 + 3 + 2 + 2
    assert len([1 for tag, attributes in read.tags if tag == "img" and attributes["class"] == "pixels"]) == 2 * 3
    assert text.count("<table>") == 3
    for disagreement in comparison.disagreements["alone"]:
        assert f"example {disagreement.index}" in read.text


def test_the_page_needs_nothing_else_and_forbids_it(page):
    read = Read(page)
    for tag, attributes in read.tags:
        assert tag not in ("script", "link", "iframe", "object", "a", "base")
        assert not any(name.startswith("on") or name == "href" for name in attributes)
        if "src" in attributes:
            assert attributes["src"].startswith(("data:image/svg+xml;base64,", "data:image/png;base64,"))
    styles = "".join(re.findall("<style>(.*?)</style>", page.read_text(encoding="utf-8"), re.S))
    assert styles and "url(" not in styles and "@import" not in styles
    (policy,) = [each["content"] for tag, each in read.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_names_are_shown_unchanged(page):
    read = Read(page)
    for name in (NAUGHTY, *CLASSES, r"<b>$\x$"):
        assert name in read.text
    assert not {"i", "b", "script"} & {tag for tag, _ in read.tags} - {"i"}
    assert all("style" in attributes for tag, attributes in read.tags if tag == "i")  # the dots of the legend


@pytest.mark.slow
def test_plots_show_names_of_models_unchanged(comparison):
    (plot,) = [plot for plot in plots.tradeoffs(comparison) if "latency" in plot.title]
    svg = base64.b64decode(plot.address.partition(",")[2]).decode()
    assert "$\\x$&lt;/title&gt;&lt;script" in svg and "<script" not in svg
    assert all(color in svg for color in COLORS.values())


def test_a_title_names_its_models(page):
    assert "<title>teacher, alone, $\\x$&lt;/title&gt;" in page.read_text(encoding="utf-8")


def elements(plot):
    root = ElementTree.fromstring(base64.b64decode(plot.address.partition(",")[2]))
    return list(root.iter("{http://www.w3.org/2000/svg}text"))


def texts(plot):
    """Return the texts of a plot with their places: x of the anchor, y of the line."""
    return [(each.text, float(each.get("x")), float(each.get("y"))) for each in elements(plot)]


def tradeoffs(comparison, scores, parameters):
    """Return the plot of scores against parameters, of models named by their numbers."""
    cost = comparison.costs["teacher"][0]
    names = [f"model {number}" for number in range(len(scores))]
    costs = {name: [dataclasses.replace(cost, parameters=each)] for name, each in zip(names, parameters, strict=True)}
    quality = {name: {"accuracy": score} for name, score in zip(names, scores, strict=True)}
    return plots.tradeoffs(dataclasses.replace(comparison, quality=quality, costs=costs, teacher=None))[0]


@pytest.mark.slow
def test_names_at_one_point_are_written_apart(comparison):
    for scores in ([0.9] * 6, [0.9, 0.9001, 0.9, 0.8999, 0.2, 0.2]):
        found = [each for each in texts(tradeoffs(comparison, scores, [1000] * 6)) if each[0].startswith("model")]
        heights = sorted(y for _, _, y in found)
        assert len(heights) == 6 and np.diff(heights).min() > 9  # of letters of 10 points


@pytest.mark.slow
@pytest.mark.one_in(3)
@pytest.mark.parametrize("most", [3e3, 3e4, 1e6, 1e8, 1e11])
def test_numbers_below_an_axis_do_not_overprint(comparison, most):
    found = texts(tradeoffs(comparison, [0.5, 0.6], [1000, most]))
    below = sorted((x, text) for text, x, y in found if re.fullmatch(r"[\d.]+[kMG]?", text) and y > 195)
    assert len(below) >= 2
    for (x, text), (other, _) in itertools.pairwise(below):
        assert other - x > 6 * len(text)  # points, for a digit of 6


@pytest.mark.slow
@pytest.mark.parametrize(("examples", "least"), [(1_000, 3.8), (1_000_000, 1.0)])
def test_differences_within_the_noise_look_small(comparison, examples, least):
    # Four standard errors of 90 % on so many examples, sqrt(90 * 10 / 1,000) = 0.95 each; and never less than a point.
    many = dataclasses.replace(comparison, examples=examples)
    found = texts(tradeoffs(many, [0.9, 0.9003], [1000, 2000]))
    ticks = [(float(text), y) for text, x, y in found if re.fullmatch(r"\d+(\.\d+)?", text) and y < 195]
    (low, bottom), (high, top) = min(ticks), max(ticks)
    assert (high - low) / (bottom - top) * 180 > 0.9 * least  # the axes are somewhat more than 180 points high


@pytest.fixture
def axes_of(monkeypatch):
    """Return the axes of plots, which are drawn and not written."""

    def axes_of(plotted):
        found = []
        for _, draw in plotted:
            figure = Figure()
            draw(figure)
            found.append(figure.axes)
        return found

    monkeypatch.setattr(plots, "_plot", lambda title, draw, **_: (title, draw))
    return axes_of


def test_points_of_models_are_at_their_scores_and_costs(comparison, axes_of):
    cost = dataclasses.replace(comparison.costs["teacher"][0], parameters=50, file_bytes=2_500_000, p50_ms=1.5)
    file = dataclasses.replace(cost, runtime="LiteRT", parameters=None, file_bytes=500_000, p50_ms=0.5)
    quality = {"teacher": {"accuracy": 0.75, "rmse": 3.0}}
    for task, score, label in (("classification", 75.0, "accuracy (%)"), ("regression", 3.0, "rmse")):
        one = dataclasses.replace(comparison, task=task, quality=quality, costs={"teacher": [cost, file]})
        drawn = [axes for (axes,) in axes_of(plots.tradeoffs(one))]
        assert [axes.get_xlabel() for axes in drawn] == ["parameters", "MB", "ms for one example, median"]
        for axes, expected in zip(drawn, ([50], [2.5, 0.5], [1.5, 0.5]), strict=True):
            line, *points = axes.lines
            assert (
                list(line.get_xdata()) == [float(point.get_xdata()[0]) for point in points] == pytest.approx(expected)
            )
            assert {float(y) for each in axes.lines for y in each.get_ydata()} == {score}
            assert [point.get_marker() for point in points] == ["o", "^"][: len(points)]
            assert axes.get_ylabel() == label


def test_a_reliability_diagram_has_accuracy_at_confidence_and_the_share_below(comparison, axes_of):
    bins = [(0.4, 0.5, 0.25), (0.9, 0.7, 0.75)]
    one = dataclasses.replace(comparison, calibration={"alone": bins})
    ((axes, below),) = axes_of(plots.reliability(one))
    dashed, points = axes.lines
    assert [list(dashed.get_xdata()), list(dashed.get_ydata())] == [[0, 1], [0, 1]]
    assert [list(points.get_xdata()), list(points.get_ydata())] == [[0.4, 0.9], [0.5, 0.7]]
    for drawn, heights in ((axes, [0.5, 0.7]), (below, [25, 75])):
        assert [bar.get_height() for bar in drawn.patches] == heights
        assert [bar.get_x() + bar.get_width() / 2 for bar in drawn.patches] == pytest.approx([0.4, 0.9])


def test_confusions_differ_in_points_of_each_true_class(comparison, axes_of):
    tables = {
        "teacher": np.array([[8.0, 2, 0], [1, 3, 0], [0, 0, 0]]),
        "alone": np.array([[4.0, 6, 0], [1, 1, 2], [0, 0, 0]]),
    }
    names = ["a" * 12, "b" * 13, "c"]
    ((axes, _),) = axes_of(plots.confusions(dataclasses.replace(comparison, confusions=tables, class_names=names)))
    (image,) = axes.images
    np.testing.assert_allclose(image.get_array(), [[-40, 40, 0], [0, -50, 50], [0, 0, 0]], atol=1e-9)
    assert image.get_clim() == (-50, 50)
    numbers = {each.get_position(): each.get_text() for each in axes.texts}  # x is the predicted class, y the true one
    assert numbers == {(0, 0): "-40", (1, 0): "+40", (1, 1): "-50", (2, 1): "+50"}
    assert [each.get_text() for each in axes.get_xticklabels()] == ["a" * 12, "b" * 11 + "…", "c"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_curves_are_by_epoch_and_one_epoch_is_a_point(comparison, axes_of):
    histories = {"teacher": {"loss": [3.0, 2.0], "val_loss": [4.0, 3.5]}, "alone": {"loss": [1.0]}}
    ((axes,),) = axes_of(plots.curves(dataclasses.replace(comparison, histories=histories)))
    drawn = [(each.get_linestyle(), each.get_marker(), each.get_xydata().tolist()) for each in axes.lines]
    assert [each for each in drawn if each[2]] == [
        ("--", "None", [[1, 3.0], [2, 2.0]]),
        ("-", "None", [[1, 4.0], [2, 3.5]]),
        ("--", "o", [[1, 1.0]]),
    ]


def test_the_spread_of_an_error_follows_from_its_examples():
    random = np.random.default_rng(0)
    rmse = np.sqrt(np.mean(np.square(random.normal(0, 3, (4000, 200))), axis=-1))
    assert plots._spread_by_chance("rmse", [3.0], 200) == pytest.approx(4 * np.std(rmse), rel=0.05)


@pytest.mark.slow
def test_names_with_characters_that_no_file_may_hold_break_neither_pictures_nor_page(tmp_path):
    name = "a\x00\x01\x1b[31m\n\ud800\u202e\ufffe"
    models = {"teacher": linear(1), name: linear(2)}
    histories = {name: {name: [1.0, 0.5]}}
    found = kd.compare(
        models, batch(16), rounds=10, memory=False, histories=histories, class_names=[name, "\x7f", "\u3000b\u00a0c"]
    )
    for draw in (plots.tradeoffs, plots.reliability, plots.confusions, plots.curves):
        for plot in draw(found):
            assert all(each.text.isprintable() or "\u3000" in each.text for each in elements(plot))
    text = found.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not set(text) & set("\x00\x01\x1b\u202e\ufffe\x7f") and "a???[31m????" in text and "\u3000b\u00a0c" in text
    json.loads(found.to_json(tmp_path / "c.json"))
    assert found.to_markdown(tmp_path / "c.md") and str(found).encode()


# A real browser.

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")

#: Returns what the browser has rendered; the page's own policy would prevent it, and all other scripts, from running.
PROBE = """<script>onload = () => { const found = JSON.stringify({
  ran: window.ran === 1, wide: document.documentElement.scrollWidth,
  first: Math.max(...[...document.querySelectorAll("th:first-child")].map(
    each => each.clientWidth / each.closest(".scroll").clientWidth)),
  sizes: [...document.images].map(each => [each.className, each.naturalWidth, each.clientWidth, each.clientHeight]),
}); document.body.textContent = found; parent.postMessage(found, "*") }</script>"""

#: Chromium's window is 500 pixels wide at the least; a frame in it is as narrow as it should be.
FRAME = """<body><iframe src="{name}" style="width: {width}px; height: 3000px; border: 0"></iframe>
<script>onmessage = event => {{ document.body.textContent = event.data }}</script></body>"""


def browse(page, *arguments, width=1300):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--log-level=3"]
    network = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}"]
    size = f"--window-size={width},3600"
    command = [*command, *network, size, *arguments, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@in_a_browser
@pytest.mark.parametrize("width", [1300, 500, 390])
def test_a_browser_shows_every_picture_on_wide_and_narrow_screens_and_runs_nothing(page, width):
    text = re.sub("<meta http-equiv.*?>", "", page.read_text(encoding="utf-8"), count=1)
    probed = page.parent / f"probed{width}.html"
    probed.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    framed = page.parent / f"framed{width}.html"
    framed.write_text(FRAME.format(name=probed.name, width=width))
    rendered = re.search("<body.*?({.*})", browse(framed, "--dump-dom", "--virtual-time-budget=5000"))[1]
    found = json.loads(rendered)
    assert found["ran"] is False
    assert found["wide"] <= width
    assert found["first"] < 0.45
    assert len(found["sizes"]) == 10 + 6
    for kind, natural, shown, height in found["sizes"]:
        assert natural > 0 and height > 0
        assert shown >= (250 if kind == "plot" else 100)


@in_a_browser
def test_a_screenshot_has_every_models_colour_in_the_plots(page, tmp_path):
    browse(page, f"--screenshot={tmp_path / 'page.png'}")
    pixels = images.imread(tmp_path / "page.png")[..., :3]
    assert pixels.shape == (3600, 1300, 3)
    for color in COLORS.values():
        wanted = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
        rows = np.flatnonzero((np.abs(pixels - wanted).max(-1) < 0.02).sum(-1) > 3)
        assert np.ptp(rows) > 900 and len(rows) > 60, color  # from the legend down to the learning curves


@in_a_browser
def test_the_probe_would_see_a_name_that_runs(tmp_path):
    (tmp_path / "x.html").write_text(f"<body>{NAUGHTY}{PROBE}</body>")
    assert '"ran":true' in browse(tmp_path / "x.html", "--dump-dom")


# Pictures.


def decoded(address):
    return images.imread(io.BytesIO(base64.b64decode(address.partition(",")[2])), format="png")[..., :3]


def test_images_of_any_range_become_pictures():
    unit = np.random.default_rng(0).random((4, 5, 3)).astype("float32")
    for image in (unit, 255 * unit, (255 * unit).astype("uint8")):
        np.testing.assert_allclose(decoded(plots.picture(image)), unit, atol=2 / 255)
    stretched = decoded(plots.picture(2 * unit - 1))
    assert stretched.min() == 0 and stretched.max() == 1
    gray = decoded(plots.picture(unit[..., :1]))
    np.testing.assert_allclose(gray, np.repeat(unit[..., :1], 3, axis=-1), atol=2 / 255)


@pytest.mark.parametrize("shape", [(4,), (4, 5, 2), (4, 5, 6, 3), (1, 30)])
def test_arrays_that_are_no_images_have_no_picture(shape):
    assert plots.picture(np.zeros(shape)) is None


def test_words_have_no_picture():
    assert plots.picture(np.full((3, 3), "a")) is None


#: What leaves a page without plots.
UNDRAWN = {"costs": {}, "calibration": {}, "confusions": {}, "histories": {}}


def test_an_example_is_shown_with_its_label_and_the_three_largest_probabilities(comparison, tmp_path):
    probabilities = np.array([0.1, 0.2, 0.4, 0.3])
    found = Disagreement(7, 0.12345, 1, student=probabilities, teacher=probabilities[::-1], x=np.zeros(3))
    one = dataclasses.replace(comparison, class_names=["a", "b", "c", "d"], disagreements={"alone": [found]}, **UNDRAWN)
    text = one.to_html(tmp_path / "page.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    terms = re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text)
    shown = {"student": "c (40 %), d (30 %), b (20 %)", "teacher": "b (40 %), a (30 %), c (20 %)"}
    assert terms == [("true", "b"), ("teacher", shown["teacher"]), ("alone", shown["student"]), ("KL", "0.123")]
    assert "<figcaption>example 7</figcaption>" in text and "alt='example 7'" not in text  # three numbers are no image


@pytest.mark.parametrize(
    ("task", "label", "true"),
    [
        ("multi-label", [1, 0, 1], "a, c"),
        ("multi-label", [0, 0, 0], "none"),
        ("binary", [1], "yes"),
        ("regression", range(9), None),
    ],
)
def test_labels_and_values_of_an_example_are_listed(comparison, tmp_path, task, label, true):
    values = np.arange(9) / 8
    found = Disagreement(0, 2.0, np.array(label), student=values, teacher=values, x=np.zeros(3))
    names = [*"abcdefghi"] if task == "multi-label" else []
    quality = {name: {"rmse": 1.0, "ece": 0.0, **each} for name, each in comparison.quality.items()}
    more = {"class_names": names, "quality": quality, "teacher": None, **UNDRAWN}
    one = dataclasses.replace(comparison, task=task, disagreements={"alone": [found]}, **more)
    text = one.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    terms = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert terms["true"] == (true or "0, 1, 2, 3, 4, 5, 6, 7, …")
    assert terms["difference" if task == "regression" else "KL"] == "2"
    if task == "binary":
        assert terms["alone"] == "yes (0\u00a0%)"
    if task == "regression":
        assert terms["alone"] == "0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, …"


# Other comparisons.


@pytest.mark.slow
@pytest.mark.parametrize("labels", [np.eye(3)[batch(16)[1]] * 0.5 + 1, np.ones((16, 3))], ids=["values", "yes or no"])
def test_other_tasks_have_a_page(tmp_path, labels):
    models = {"teacher": linear(1), "student": linear(2)}
    comparison = kd.compare(models, (batch(16)[0], labels), rounds=10, memory=False)
    text = comparison.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert ("Rmse" if comparison.task == "regression" else "Reliability") in text
    assert "disagree most" in text and "Learning curves" not in text


@pytest.mark.slow
def test_models_with_several_outputs_have_one_page(tmp_path):
    inputs = keras.Input((4,))
    models = {
        name: keras.Model(inputs, {"kind": dense(3, seed)(inputs), "size <b>": dense(1, seed)(inputs)})
        for seed, name in enumerate(("teacher", "student"))
    }
    x, y = batch(16)
    data = (x, {"kind": y, "size <b>": x[:, :1]})
    task = {"kind": "classification", "size <b>": "regression"}
    comparison = kd.compare(models, data, task=task, rounds=10, memory=False)
    text = comparison.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("<h2>Numbers</h2>") == text.count("<h2>Reliability</h2>") == text.count("<h2>Classes</h2>") == 1
    assert "<h2>kind</h2>" in text and "<h2>size &lt;b&gt;</h2>" in text and "kind: accuracy" in text
    assert text.count("disagree most") == 2 and "Kind/accuracy against size and time" in text


def test_one_model_without_costs_has_a_page(tmp_path):
    comparison = kd.compare({"only": linear(1)}, batch(16), teacher=None, rounds=0)
    text = comparison.to_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Reliability" in text and "size and time" not in text and "disagree" not in text


@pytest.mark.slow
def test_many_classes_have_a_page(tmp_path):
    models = {name: linear(seed, classes=30) for seed, name in enumerate(("teacher", "student"))}
    comparison = kd.compare(models, batch(16, classes=30), rounds=0)
    assert "Confusions" in comparison.to_html(tmp_path / "page.html").read_text(encoding="utf-8")


def test_matplotlib_that_is_not_installed_is_named_with_its_extra(comparison, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"keras_kd\[plot\]"):
        comparison.to_html(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
