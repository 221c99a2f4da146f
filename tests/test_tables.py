"""Tables of text and the numbers in them, as they are printed everywhere."""

import pytest

from keras_kd._internal import number_formats, tables

ROWS = [("name", "size", "note"), ("a|<b>", "1 kB", ""), ("c", "10 kB", "large")]


def test_columns_are_aligned_as_given_and_the_last_alignment_is_that_of_the_rest():
    assert tables.aligned(ROWS, "<>") == ["name    size   note", "a|<b>   1 kB", "c      10 kB  large"]
    assert tables.aligned(ROWS, "<><") == ["name    size  note", "a|<b>   1 kB", "c      10 kB  large"]


def test_a_rule_is_as_wide_as_the_widest_row():
    assert tables.aligned(ROWS, "<", rule=True)[1] == "-" * len("a|<b>  10 kB  large")


def test_markdown_shows_names_unchanged():
    assert tables.markdown(ROWS[:2], "<>").splitlines() == [
        "| name | size | note |",
        "| --- | ---: | ---: |",
        "| a\\|&lt;b&gt; | 1 kB |  |",
    ]


def test_html_marks_the_cells_that_are_best():
    text = tables.hypertext(ROWS, [frozenset({0}), frozenset()])
    assert "<th scope='row'>a|&lt;b&gt;</th><td class=best>1 kB</td><td></td>" in text
    assert "<th scope='row'>c</th><td>10 kB</td><td>large</td>" in text


def test_no_cell_breaks_a_line_or_colours_a_terminal():
    (line,) = tables.aligned([("a\nb", "\x1b[1m")], "<")
    assert line == "a?b  ?[1m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number_formats.percent(0.8472), "84.7 %"),
        (number_formats.percent(0.01, 2, "+"), "+1.00 %"),
        (number_formats.percent(None), "-"),
        (number_formats.size(999), "999 bytes"),
        (number_formats.size(1234567), "1.2 MB"),
        (number_formats.size(2**20, "KiB"), "1,024 KiB"),
        (number_formats.duration(119), "119.0 s"),
        (number_formats.duration(150), "2.5 min"),
        (number_formats.duration(9000), "2.5 h"),
        (number_formats.milliseconds(0.01234), "0.0123 ms"),
        (number_formats.significant(3.456), "3.46"),
        (number_formats.significant(None), "-"),
        (number_formats.count(1234567), "1,234,567"),
    ],
)
def test_a_number_is_written_in_a_readable_form(text, expected):
    assert text == expected
