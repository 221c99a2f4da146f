"""One page for a comparison, which needs no other file, no script and no network.

Every text goes through `tables.as_html`: names of models, classes and metrics are their users' own. A policy in the
page keeps browsers from loading or running anything, should one slip through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from keras_kd._internal import tables
from keras_kd._internal.number_formats import percent, significant
from keras_kd.evaluation import measures, plots
from keras_kd.evaluation.disagreements import Disagreement

if TYPE_CHECKING:
    from keras_kd.evaluation.comparison_result import Comparison

#: Probabilities shown of each model beside an example.
_SHOWN = 3

_STYLE = """
body { margin: 0; background: #f4f5f7; }
main { max-width: 1180px; margin: 0 auto; padding: 1.2em; box-sizing: border-box; }
h1 { font-size: 1.6em; margin: 0.4em 0 0.2em; overflow-wrap: anywhere; }
h2 { font-size: 1.15em; margin: 2em 0 0.2em; }
h3 { font-size: 1em; margin: 1.2em 0 0.4em; overflow-wrap: anywhere; }
section > p { color: #5b6472; margin: 0 0 0.8em; max-width: 50em; }
.legend span { display: inline-block; margin: 0 1.2em 0.3em 0; overflow-wrap: anywhere; }
.legend i { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 50%; margin-right: 0.4em; }
.grid { display: grid; gap: 1em; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.examples { grid-template-columns: repeat(auto-fill, minmax(min(200px, 100%), 1fr)); }
figure { margin: 0; padding: 0.9em; background: #fff; border: 1px solid #e3e6eb; border-radius: 6px; min-width: 0; }
figure > img { display: block; width: 100%; height: auto; }
figure > img.pixels { width: 128px; max-width: 100%; image-rendering: pixelated; margin: 0 auto; }
figcaption { font-weight: 600; margin-bottom: 0.5em; overflow-wrap: anywhere; }
dl { margin: 0.6em 0 0; display: grid; gap: 0.1em 0.7em; font-size: 0.9em; }
dl { grid-template-columns: minmax(3.2em, auto) 1fr; }
dt { color: #5b6472; max-width: 6em; overflow-wrap: anywhere; } dd { margin: 0; overflow-wrap: anywhere; }
.kd .scroll { background: #fff; border: 1px solid #e3e6eb; border-radius: 6px; padding: 0.4em; width: fit-content; }
.kd .scroll { box-sizing: border-box; max-width: 100%; }
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def of(comparison: Comparison) -> str:
    """Return the page as HTML.

    Raises:
        ImportError: the extra `plot` is not installed.
    """
    plots.check_installed()
    title = tables.as_html(f"{', '.join(comparison.quality)}: {comparison.task}")
    numbers = [each for each in comparison.as_tables() if each.title in ("quality", "cost")]
    sections = [
        _section("Numbers", "", "".join(measures.as_html(each) for each in numbers)),
        _section(
            f"{comparison.score} against size and time".capitalize(),
            "A point for each way of running a model: circles Keras, squares SavedModel, triangles LiteRT. "
            "The vertical axis spans at least four standard errors of a score on so many examples: points that are "
            "closer than half of that may differ by chance.",
            _figures(plots.tradeoffs(comparison)),
        ),
        _section("Learning curves", "By epoch: training dashed, validation solid.", _figures(plots.curves(comparison))),
        *_details(comparison),
    ]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{tables.STYLE}{_STYLE}</style></head>"
        f"<body class='kd'><main><h1>{title}</h1><p class='note'>{tables.as_html(comparison.footnote())}</p>"
        f"{_legend(comparison)}{''.join(sections)}</main></body></html>\n"
    )


def _details(comparison: Comparison) -> list[str]:
    """Return the sections about an output, by confidence, by class, by example; of several, one after the other."""
    if comparison.outputs:
        of_outputs = comparison.outputs.items()
        return [part for name, each in of_outputs for part in (f"<h2>{tables.as_html(name)}</h2>", *_details(each))]
    classes = [each for each in comparison.as_tables() if each.title not in ("quality", "cost")]
    return [
        _section(
            "Reliability",
            "How often a model is right at a confidence. On the dashed line it is as confident as it "
            "should be; below it is overconfident.",
            _figures(plots.reliability(comparison)),
        ),
        _section(
            "Confusions that differ from the teacher's",
            "Of the examples of each true class, how many points more (red) or less (blue) the student puts where.",
            _figures(plots.confusions(comparison)),
        ),
        _section("Classes", "", "".join(measures.as_html(each) for each in classes)),
        _section(
            "Where student and teacher disagree most",
            "The examples with the largest distance of the student's output from the teacher's.",
            "".join(_examples(comparison, name, found) for name, found in comparison.disagreements.items()),
        ),
    ]


def _section(title: str, explained: str, body: str) -> str:
    """Return a section, or nothing where there is nothing to show."""
    if not body:
        return ""
    note = f"<p>{tables.as_html(explained)}</p>" if explained else ""
    return f"<section><h2>{tables.as_html(title)}</h2>{note}{body}</section>"


def _legend(comparison: Comparison) -> str:
    entries = "".join(
        f"<span><i style='background:{color}'></i>{tables.as_html(name)}</span>"
        for name, color in plots.colors(comparison).items()
    )
    return f"<p class='legend'>{entries}</p>"


def _figures(drawn: list[plots.Plot]) -> str:
    figures = "".join(
        f"<figure><figcaption>{tables.as_html(each.title)}</figcaption>"
        f"<img class='plot' alt='{tables.as_html(each.title)}' src='{each.address}'></figure>"
        for each in drawn
    )
    return f"<div class='grid'>{figures}</div>" if figures else ""


def _examples(comparison: Comparison, name: str, found: list[Disagreement]) -> str:
    cards = "".join(_example(comparison, name, each) for each in found)
    return f"<h3>{tables.as_html(name)}</h3><div class='grid examples'>{cards}</div>"


def _example(comparison: Comparison, name: str, found: Disagreement) -> str:
    address = plots.picture(found.x) if isinstance(found.x, np.ndarray) else None
    image = f"<img class='pixels' alt='example {found.index}' src='{address}'>" if address else ""
    unit = "difference" if comparison.task == "regression" else "KL"
    lines = [
        ("true", _label(comparison, found.label)),
        (comparison.teacher or "", _output(comparison, found.teacher)),
        (name, _output(comparison, found.student)),
        (unit, f"{found.distance:.3g}"),
    ]
    listed = "".join(f"<dt>{tables.as_html(term)}</dt><dd>{tables.as_html(text)}</dd>" for term, text in lines)
    return f"<figure><figcaption>example {found.index}</figcaption>{image}<dl>{listed}</dl></figure>"


def _label(comparison: Comparison, label: np.ndarray | int) -> str:
    if comparison.task == "classification":
        return _class_name(comparison, int(label))
    values = np.ravel(label)
    if comparison.task == "binary":
        return "yes" if values[0] else "no"
    if comparison.task == "multi-label":
        return ", ".join(comparison.class_names[place] for place in np.flatnonzero(values)) or "none"
    return _values(values)


def _output(comparison: Comparison, predicted: np.ndarray) -> str:
    if comparison.task == "regression":
        return _values(predicted)
    if comparison.task == "binary":
        return f"yes ({percent(predicted[0], 0)})".replace(" %", "\u00a0%")
    order = np.argsort(-predicted, kind="stable")[:_SHOWN]
    shares = {place: percent(predicted[place], 0).replace(" ", "\u00a0") for place in order}
    return ", ".join(f"{_class_name(comparison, place)} ({share})" for place, share in shares.items())


def _class_name(comparison: Comparison, place: int) -> str:
    return comparison.class_names[place] if comparison.class_names else str(place)


def _values(values: np.ndarray) -> str:
    return ", ".join(significant(value, 4) for value in values[:8]) + (", …" if len(values) > 8 else "")
