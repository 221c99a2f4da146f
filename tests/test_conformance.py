"""The page of conformance lists what the library has, as the command prints it."""

import pathlib
import re

from tests import conformance

PAGE = (pathlib.Path(__file__).parent / "CONFORMANCE.md").read_text()
LINES = [line for line in PAGE.splitlines() if line.startswith("| `")]


def test_the_page_lists_every_public_loss_and_transform():
    names = {re.match(r"\| `([\w.]+)`", line)[1] for line in LINES}
    assert {name for name in names if not name.startswith("transforms.")} == conformance.public_losses()
    assert {name for name in names if name.startswith("transforms.")} == {
        f"transforms.{transform.name}" for transform in conformance.TRANSFORMS
    }


def test_the_page_is_what_the_command_prints_except_for_numbers():
    assert PAGE.startswith(conformance.HEAD + conformance.line((*conformance.COLUMNS, *conformance.MEASURED)))
    printed = [conformance.line(row) for row in conformance.known_rows()]
    assert [re.sub(r" \S+ \| \S+ \| \S* \| \S* \|$", "", line) for line in LINES] == printed


def test_the_numbers_of_the_page_are_those_of_float32():
    numbers = [float(number) for line in LINES for number in re.findall(r"(?<= )\de[-+]\d\d(?= \|)", line)]
    of_many_classes = sum(golden.compares_distributions for golden in conformance.LOSSES)
    assert len(numbers) == 2 * len(LINES) + 2 * of_many_classes
    assert max(numbers) < 1e-5
