"""What papers report, and the table that puts it beside what was measured here. A cell without a source stays empty."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Figure:
    """A published number.

    Attributes:
        value: as it was printed.
        source: whose table.
    """

    value: str
    source: str


#: Test accuracy in percent, by (teacher, student) and method, and where each stands.
CRD = "CRD, tables 1 and 2 (README of github.com/HobbitLong/RepDistiller)"
DKD = "DKD, tables of CIFAR-100 (README of github.com/megvii-research/mdistiller)"
_METHODS = ("teacher", "alone", "kd", "fitnets", "at", "sp", "vid", "rkd", "pkt", "nst", "crd")
_OF_CRD = {
    ("resnet32x4", "resnet8x4"): (79.42, 72.50, 73.33, 73.50, 73.44, 72.94, 73.09, 71.90, 73.64, 73.30, 75.51),
    ("wrn_40_2", "wrn_16_2"): (75.61, 73.26, 74.92, 73.58, 74.08, 73.83, 74.11, 73.35, 74.54, 73.68, 75.48),
    ("resnet32x4", "shuffle_v1"): (79.42, 70.50, 74.07, 73.59, 71.73, 73.48, 73.38, 72.28, 74.10, 74.12, 75.11),
    ("resnet32x4", "shuffle_v2"): (79.42, 71.82, 74.45, 73.54, 72.73, 74.56, 73.40, 73.21, 74.69, 74.68, 75.65),
}
_OF_DKD = {
    ("resnet32x4", "resnet8x4"): 76.32,
    ("wrn_40_2", "wrn_16_2"): 76.23,
    ("resnet32x4", "shuffle_v1"): 76.45,
}  # of ShuffleNet V2 that README has no column

CIFAR_100: dict[tuple[str, str], dict[str, Figure]] = {
    pair: {name: Figure(f"{value:.2f}", CRD) for name, value in zip(_METHODS, row, strict=True)}
    for pair, row in _OF_CRD.items()
}
for _pair, _value in _OF_DKD.items():
    CIFAR_100[_pair]["dkd"] = Figure(f"{_value:.2f}", DKD)

#: On the test sets of GLUE's server, which takes predictions; the scripts here score on the validation sets, whose
#: labels are public. Accuracy in percent, F1 of MRPC, matched and mismatched of MNLI.
TINY = "TinyBERT, table 1, GLUE's server (Jiao et al., 2019, arXiv 1909.10351)"
MINIATURES = "BERT miniatures, GLUE's server (README of github.com/google-research/bert)"
_TASKS = ("sst2", "mrpc", "qnli", "mnli")
_SYSTEMS = {
    "BERT-base": ("12 layers of 768", TINY, ("93.4", "87.5", "90.9", "83.9/83.4")),
    "BERT-Small, alone": ("4 layers of 512", MINIATURES, ("89.7", "83.4", "86.4", "77.6/77.0")),
    "DistilBERT-4": ("4 layers of 768", TINY, ("91.4", "82.4", "85.2", "78.9/78.0")),
    "PKD-4": ("4 layers of 768", TINY, ("89.4", "82.6", "85.1", "79.9/79.3")),
    "TinyBERT-4": ("4 layers of 312", TINY, ("92.6", "86.4", "87.7", "82.5/81.8")),
}

GLUE: dict[str, dict[str, Figure]] = {
    task: {f"{name} ({size})": Figure(row[place], source) for name, (size, source, row) in _SYSTEMS.items()}
    for place, task in enumerate(_TASKS)
}


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return mean ± standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}" if values else ""


def beside(measured: Mapping[str, Sequence[float]], known: Mapping[str, Figure]) -> str:
    """Return a table of what was measured, one number for each seed, beside what is published, by name."""
    sources = list(dict.fromkeys(each.source for each in known.values()))
    rows = [["", "measured here", "seeds", "published"]]
    for name in [*measured, *(each for each in known if each not in measured)]:
        values, figure = measured.get(name, ()), known.get(name)
        theirs = f"{figure.value} [{sources.index(figure.source) + 1}]" if figure else ""
        rows.append([name, spread(values), str(len(values) or ""), theirs])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return "\n".join([*lines, "", *(f"[{number}] {source}" for number, source in enumerate(sources, start=1))])
