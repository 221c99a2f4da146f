"""Two tokenizations of one text: the spans are where both have a boundary, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_kd.language import Pieces, align, pieces, shared_tokens
from keras_kd.language.spans import spans

several = settings(max_examples=80, deadline=None)


def cut(text, places):
    """Return a text in pieces."""
    bounds = [0, *sorted({each % len(text) for each in places} - {0}), len(text)]
    return [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def texts():
    """Return a byte string that does not begin with a space, and two ways to cut it."""
    cuts = st.lists(st.integers(0, 40), max_size=12)
    return st.tuples(st.text("ab é", min_size=1, max_size=20).map(lambda t: ("x" + t).encode()), cuts, cuts)


@given(texts())
@several
def test_spans_are_the_pieces_between_the_boundaries_that_both_have(drawn):
    text, ours, theirs = drawn
    sides = [cut(text, each) for each in (ours, theirs)]
    # Both begin with a special token, which predicts the first piece.
    numbers = spans(*([None, *side] for side in sides))
    ends = [set(np.cumsum([len(piece) for piece in side])) for side in sides]
    expected = np.diff([0, *sorted(ends[0] & ends[1])])
    for side, number in zip(sides, numbers, strict=True):
        assert number[0] == -1 and np.all(np.diff(number[1:]) >= 0)
        joined = [b"".join(p for p, n in zip(side, number[1:], strict=True) if n == k) for k in range(len(expected))]
        assert [len(each) for each in joined] == list(expected) and b"".join(joined) == text


@given(texts())
@several
def test_one_tokenization_on_both_sides_has_a_span_for_each_token(drawn):
    side = [None, *cut(drawn[0], drawn[1]), None]
    ours, theirs = spans(side, side)
    np.testing.assert_array_equal(ours, [-1, *range(len(side) - 2), -1])
    np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        # "the" and "re" are one span, as are "a" and "b", "c".
        ([None, b"the", b"re", b"a"], [None, b"there", b"a"], ([-1, 0, 0, 1], [-1, 0, 1])),
        # A space that SentencePiece alone begins with does not count.
        ([None, b" the", b" a"], [None, b"the", b" a"], ([-1, 0, 1], [-1, 0, 1])),
        # Of a row without a special token, the first token is not predicted: what it belongs to is left out.
        ([b"t", b"he", b"a", b"b"], [b"the", b"a", b"b"], ([-1, -1, 0, 1], [-1, 0, 1])),
        ([b"t", b"he", b"a"], [None, b"the", b"a"], ([-1, -1, 0], [-1, -1, 0])),
        # What one side has cut, and what differs, is in no span.
        ([None, b"a", b"bc"], [None, b"a", b"b"], ([-1, 0, -1], [-1, 0, -1])),
        ([None, b"a", b"x", b"c"], [None, b"a", b"y", b"c"], ([-1, 0, -1, -1], [-1, 0, -1, -1])),
        # Special tokens are in none, and a span does not go across one.
        ([None, b"a", None, b"b", b"c", None], [None, b"ab", b"c"], ([-1, -1, -1, -1, 0, -1], [-1, -1, 0])),
        ([None, None], [None, b"a"], ([-1, -1], [-1, -1])),
    ],
)
def test_spans_by_hand(student, teacher, expected):
    received = spans(student, teacher)
    for ours, theirs in zip(received, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def examples(ids, present, weights=None):
    """Return x, y and weights of whole rows."""
    ids, present = np.array(ids), np.array(present, bool)
    weights = present[:, 1:] if weights is None else weights
    return {"token_ids": ids[:, :-1], "padding_mask": present[:, :-1]}, ids[:, 1:], weights


OURS = Pieces((None, b"a", b"b", b"c"))
THEIRS = Pieces((b"ab", b"c", None, b"a"))


def test_aligned_examples_have_both_sides_and_where_the_teacher_predicts_a_span():
    student = examples([[0, 1, 2, 3, 0]], [[1, 1, 1, 1, 1]], [[0.0, 1.0, 1.0, 1.0]])
    teacher = examples([[2, 0, 1, 1]], [[1, 1, 1, 0]])
    x, y, weights = align(student, teacher, OURS, THEIRS)
    expected = {
        "token_ids": [[0, 1, 2, 3]],
        "padding_mask": [[True] * 4],
        "targets": [[1, 2, 3, 0]],
        "spans": [[0, 0, 1, -1]],
        "teacher_token_ids": [[2, 0, 1]],
        "teacher_padding_mask": [[True] * 3],
        "teacher_targets": [[0, 1, 1]],
        "teacher_spans": [[0, 1, -1]],
        "teacher_places": [[0, -1, 1, -1]],
    }
    assert x.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(x[name], value, err_msg=name)
    np.testing.assert_array_equal(y, [[1, 2, 3, 0]])
    np.testing.assert_array_equal(weights, [[0, 1, 1, 1]])


def test_tokens_that_drop_spaces_are_aligned_without_them():
    ours = Pieces((None, b"good", b"film", b"s"), spaces=False)
    theirs = Pieces((None, b"Good", b" ", b" fil", b"ms"))
    x, _, _ = align(
        examples([[0, 1, 2, 3]], [[1, 1, 1, 1]]), examples([[0, 1, 2, 3, 4]], [[1, 1, 1, 1, 1]]), ours, theirs
    )
    np.testing.assert_array_equal(x["spans"], [[0, 1, 1]])
    np.testing.assert_array_equal(x["teacher_spans"], [[0, 1, 1, 1]])  # a space belongs to what follows
    np.testing.assert_array_equal(x["teacher_places"], [[0, 1, -1]])


def test_shared_tokens_are_those_of_the_same_text():
    assert shared_tokens(OURS, THEIRS) == ([1, 3], [3, 1])
    assert shared_tokens(OURS, OURS) == ([1, 2, 3], [1, 2, 3])
    assert shared_tokens(Pieces((b"a", b"a")), Pieces((None, b"a", b"a"))) == ([0], [1])


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            examples([[0, 4]], [[1, 1]]),
            examples([[2, 0]], [[1, 1]]),
            "below 4, the size of the vocabulary. Received: 4",
        ),
        (
            examples([[0, 1]] * 2, [[1, 1]] * 2),
            examples([[2, 0]], [[1, 1]]),
            "the same texts on both sides. .* 2 and 1",
        ),
    ],
)
def test_what_cannot_be_aligned_is_refused(student, teacher, message):
    with pytest.raises(ValueError, match=message):
        align(student, teacher, OURS, THEIRS)


class Tokenizer:
    """The tokens of a kind of tokenizer, as those of KerasHub give them."""

    def __init__(self, tokens, special=(), **known):
        self.tokens, self.special_tokens = tokens, list(special)
        vars(self).update(known)

    def vocabulary_size(self):
        """Return their number."""
        return len(self.tokens)

    def id_to_token(self, number):
        """Return a token."""
        return self.tokens[number]


def test_sentence_pieces_write_spaces_and_bytes_in_their_own_way():
    tokens = Tokenizer(["<unk>", "<s>", "▁the", "é", "<0x0A>", "<", "▁"], ["<s>"], proto=b"")
    assert pieces(tokens).texts == (None, None, b" the", "é".encode(), b"\n", b"<", b" ")


def test_word_pieces_hold_no_spaces():
    received = pieces(Tokenizer(["[PAD]", "good", "##s", "#"], ["[PAD]"], suffix_indicator="##"))
    assert received == Pieces((None, b"good", b"s", b"#"), spaces=False)


def test_a_tokenizer_of_another_kind_is_refused_with_what_to_give():
    with pytest.raises(TypeError, match=r"byte pairs, SentencePiece or WordPiece. Received: object.*Pieces\(texts="):
        pieces(object())


def test_the_tokens_of_keras_hub_join_to_the_text():
    pytest.importorskip("keras_hub")
    from tests.tasks import bert_tokenizer, causal_lm

    tokenizer = causal_lm(1, more=["Ã", "©"]).preprocessor.tokenizer
    known = pieces(tokenizer).texts
    assert known[tokenizer.end_token_id] is None
    for text in ("the film of it", "a  b", "é"):
        assert b"".join(known[each] for each in tokenizer([text])[0]) == text.encode()
    words = bert_tokenizer(["good", "fil", "##m"])
    known = pieces(words)
    assert not known.spaces and known.texts[:5] == (None,) * 5
    assert [known.texts[each] for each in words(["good film"])[0]] == [b"good", b"fil", b"m"]
