"""Examples for causal language models: what is read, what follows, and what of that is learned."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_kd as kd
from keras_kd import language
from tests.models import few, softmax

END = 2


def learned(examples):
    """Return the tokens that count in each row, with the token that each of them is predicted from."""
    x, y, weights = examples
    rows = zip(x["token_ids"], y, weights, strict=True)
    return [[(int(a), int(b)) for a, b, w in zip(*row, strict=True) if w] for row in rows]


@pytest.mark.parametrize("pad", [0, END])  # token 0 is one of the words, too, and padding may be the end token
def test_answers_and_their_end_are_learned_and_what_is_padding_is_no_matter_of_ids(pad):
    x, y, weights = language.completions([[5, 0, END], [6]], [[0, 7], [8]], length=7, end=END, pad=pad)
    rest = [pad] * 3
    assert x["token_ids"].tolist() == [[5, 0, END, 0, 7, END, pad], [6, 8, END, pad, *rest]]
    assert x["padding_mask"].tolist() == [[True] * 6 + [False], [True] * 3 + [False] * 4]
    assert y.tolist() == [[0, END, 0, 7, END, pad, pad], [8, END, pad, pad, *rest]]
    assert weights.tolist() == [[0, 0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]]
    assert [each.dtype for each in (x["token_ids"], x["padding_mask"], y, weights)] == [
        "int32",
        "bool",
        "int32",
        "float32",
    ]


def test_rows_are_filled_up_on_the_left_too():
    x, y, weights = language.completions([[5, 6], [6]], [[7], [8]], length=5, end=END, side="left")
    assert x["token_ids"].tolist() == [[0, 0, 5, 6, 7], [0, 0, 0, 6, 8]]
    assert x["padding_mask"].tolist() == [[False, False, True, True, True], [False] * 3 + [True] * 2]
    assert y.tolist() == [[0, 5, 6, 7, END], [0, 0, 6, 8, END]]
    assert weights.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]


PADDING = 99
IDS = st.lists(st.integers(0, 9), max_size=12)


@few
@given(IDS, IDS, st.integers(1, 10), st.sampled_from([None, 3]), st.sampled_from(["left", "right"]))
@pytest.mark.filterwarnings("ignore:.* do not fit into length")
def test_a_row_is_the_end_of_the_prompt_and_the_beginning_of_the_answer(prompt, answer, length, start, side):
    first = [] if start is None else [start]
    whole, room = [*answer, END], length + 1 - len(first)
    of_prompt = min(len(prompt), max(room - len(whole), room // 2))
    expected = [*first, *prompt[len(prompt) - of_prompt :], *whole[: room - of_prompt]]
    counted = len(expected) - max(1, len(first) + of_prompt)  # nothing stands before the first token
    if counted < 1:
        return  # nothing to learn, which is tested by itself
    x, y, weights = language.completions(
        [prompt], [answer], length=length, end=END, start=start, side=side, pad=PADDING
    )
    row = [int(x["token_ids"][0, 0]), *y[0].tolist()]
    filled = [PADDING] * (length + 1 - len(expected))
    assert row == ([*expected, *filled] if side == "right" else [*filled, *expected])
    assert y[0][weights[0] == 1].tolist() == expected[-counted:]
    assert x["token_ids"][0][~x["padding_mask"][0]].tolist() == filled[: length - len(expected)] or side == "left"


def test_a_prompt_is_cut_at_its_beginning_and_an_answer_at_its_end():
    prompt, answer = list(range(10, 20)), list(range(20, 30))
    x, y, weights = language.completions([prompt], [[20, 21]], length=6, end=END, start=1)
    assert x["token_ids"].tolist() == [[1, 17, 18, 19, 20, 21]] and y[0, -1] == END and weights.sum() == 3
    with pytest.warns(
        UserWarning, match="1 of 2 answers do not fit into length=7 positions, first number 1: .* no|not"
    ):
        x, y, weights = language.completions([[5], prompt], [[6], answer], length=7, end=END)
    assert x["token_ids"][1].tolist() == [16, 17, 18, 19, 20, 21, 22] and y[1, -1] == 23  # and no end token
    with pytest.warns(UserWarning, match="do not fit"):
        x, y, _ = language.completions([[5]], [answer], length=4, end=END)
    assert [*x["token_ids"][0], y[0, -1]] == [5, 20, 21, 22, 23]
    with pytest.raises(ValueError, match="at most length=6 .* 1 longer ones, first number 1, the longest of 12"):
        language.completions([[5], prompt], [[6], [7, 8]], length=6, end=END, truncate=False)


def test_whole_texts_are_learned_from_their_second_token_on():
    assert learned(language.completions(None, [[5, 6, 7]], length=8, end=END)) == [[(5, 6), (6, 7), (7, END)]]
    assert learned(language.completions(None, [[5, 6]], length=8, end=END, start=1)) == [[(1, 5), (5, 6), (6, END)]]


TEMPLATE = {"system": ([], [3]), "user": ([1], [3]), "assistant": ([1, 4], [3])}


def turn(role, *content):
    return {"role": role, "content": list(content)}


CHAT = [turn("system", 9), turn("user", 10), turn("assistant", 20), turn("user", 11), turn("assistant", 21, 22)]


def test_turns_of_the_assistant_are_learned_each_with_its_end():
    examples = language.conversations([[*CHAT, turn("user", 12)]], template=TEMPLATE, length=20)
    row = [9, 3, 1, 10, 3, 1, 4, 20, 3, 1, 11, 3, 1, 4, 21, 22, 3]
    assert examples[0]["token_ids"][0][examples[0]["padding_mask"][0]].tolist() == row
    assert learned(examples) == [[(4, 20), (20, 3), (4, 21), (21, 22), (22, 3)]]


def test_a_conversation_is_cut_at_its_beginning():
    examples = language.conversations([CHAT], template=TEMPLATE, length=9, start=8)
    assert examples[0]["token_ids"].tolist() == [[8, 3, 1, 11, 3, 1, 4, 21, 22]] and examples[1][0, -1] == 3
    assert learned(examples) == [[(4, 21), (21, 22), (22, 3)]]
    with pytest.raises(ValueError, match="the longest of 17"):
        language.conversations([CHAT], template=TEMPLATE, length=9, start=8, truncate=False)


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([turn("user", 1)], r"'assistant'.* the roles \['user'\] in conversation 0"),
        ([turn("tool", 1), turn("assistant", 2)], r"each role .* \['assistant', 'system', 'user'\], and \['tool'\]"),
    ],
)
def test_conversations_that_cannot_be_learned_are_refused(chat, message):
    with pytest.raises(ValueError, match=message):
        language.conversations([chat], template=TEMPLATE, length=8)


def test_what_is_generated_counts_to_the_first_of_several_stop_ids():
    ids = [[END, 5, 6, END, 7, 3], [4, 5, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9], [4, 5, 0, 0, END, END]]
    x, y, weights = language.generated(ids, 2, stop_ids=[3, END])
    assert weights.tolist() == [[0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 1, 1], [0, 1, 1, 1, 0]]
    assert x["padding_mask"].tolist() == [[True] * 4 + [False], [True] * 3 + [False] * 2, [True] * 5, [True] * 5]
    np.testing.assert_array_equal(y, np.array(ids)[:, 1:])


def test_generated_rows_may_have_prompts_of_several_lengths_and_padding_before_them():
    ids, mask = [[0, 0, 5, 6, END, END]], [[False, False, True, True, True, True]]
    x, _, weights = language.generated(ids, 3, stop_ids=[END], padding_mask=mask)
    assert weights.tolist() == [[0, 0, 1, 1, 0]] and x["padding_mask"].tolist() == [[False, False, True, True, True]]
    _, _, weights = language.generated([[4, 5, 6, END], [4, 5, 6, END]], [1, 3], stop_ids=[END])
    assert weights.tolist() == [[1, 1, 1], [0, 0, 1]]


def words(texts):
    """Return the ids of letters."""
    return [[ord(each) - ord("a") for each in text] for text in texts]


def test_texts_become_tokens():
    of_texts = language.completions(["fg", "h"], ["i", "aj"], length=5, end=END, tokenizer=words)
    of_ids = language.completions([[5, 6], [7]], [[8], [0, 9]], length=5, end=END)
    for one, other in zip(tf.nest.flatten(of_texts), tf.nest.flatten(of_ids), strict=True):
        np.testing.assert_array_equal(one, other)
    template = {"user": ("b", "d"), "assistant": ("c", [3])}
    chat = [{"role": "user", "content": "xy"}, {"role": "assistant", "content": "z"}]
    examples = language.conversations([chat], template=template, length=7, tokenizer=words)
    assert learned(examples) == [[(2, 25), (25, 3)]]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: language.completions([[1]], [[]], length=4, end=None), ValueError, "1 without, first number 0"),
        (lambda: language.completions(None, [[5, 6], [5]], length=4, end=None), ValueError, "first number 1"),
        (lambda: language.completions([[1]], [[2], [3]], length=4, end=END), ValueError, "1 prompts, 2 answers"),
        (lambda: language.completions([[1]], [[-2]], length=4, end=END), ValueError, "at least 0. Received: -2"),
        (lambda: language.completions([[1]], [[2]], length=0, end=END), ValueError, "at least 1, .* Received: 0"),
        (lambda: language.completions([[1]], [[2]], length=4, end=END, side="both"), ValueError, "'both'"),
        (lambda: language.completions(["a"], [[2]], length=4, end=END), TypeError, "`tokenizer` for texts.* 'a'"),
        (lambda: language.generated([1, 2], 1, stop_ids=[3]), ValueError, r"the shape: \(2,\)"),
        (lambda: language.generated([[1, 2], [3, 4]], [1, 2], stop_ids=[3]), ValueError, "first number 1"),
    ],
)
def test_what_nothing_can_be_made_of_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Packed rows


def test_packed_rows_have_positions_of_their_own_and_no_example_predicts_the_next():
    examples = language.completions([[5, 6], [7], [8]], [[10], [11], [12, 13, 14]], length=8, end=END)
    x, y, weights = language.packed(examples, models=[], length=6)
    assert x["token_ids"].tolist() == [[5, 6, 10, 7, 11, 0], [8, 12, 13, 14, 0, 0]]
    assert x["positions"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]]
    assert x["segments"].tolist() == [[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]]
    assert x["padding_mask"].tolist() == [[True] * 5 + [False], [True] * 4 + [False] * 2]
    assert y.tolist() == [[6, 10, END, 11, END, 0], [12, 13, 14, END, 0, 0]]
    assert weights.tolist() == [[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]
    with pytest.raises(ValueError, match="`length` of at least that of the longest example, 4. Received: 3"):
        language.packed(examples, models=[], length=3)


def attending(seed, vocabulary=12, width=8, length=8):
    """Return a model of one layer of attention that keeps segments apart."""
    keras.utils.set_random_seed(seed)
    names = ("token_ids", "positions", "segments")
    x = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    hidden = keras.layers.Embedding(vocabulary, width)(x["token_ids"])
    hidden += keras.layers.Embedding(length, width)(x["positions"])
    same = keras.layers.Lambda(lambda s: s[:, :, None] == s[:, None, :])(x["segments"])
    attention = keras.layers.MultiHeadAttention(2, width)
    hidden = attention(hidden, hidden, attention_mask=same, use_causal_mask=True)
    return keras.Model(x, keras.layers.Dense(vocabulary)(hidden))


def test_a_model_that_keeps_segments_apart_learns_from_packed_rows_what_it_learns_from_single_ones():
    texts = [[5, 6, 7], [8, 9], [3, 4, 10, 11], [1]]
    single = language.completions(None, texts, length=8, end=END)
    single[0]["positions"] = np.tile(np.arange(8), (4, 1))
    single[0]["segments"] = single[0]["padding_mask"].astype("int32")
    student, teacher = attending(1), attending(2)
    packed = language.packed(single, models=[student, teacher])
    assert len(packed[1]) == 2
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    made = kd.Distiller(student=student, teacher=teacher)
    made.compile("sgd", loss)
    found = [made.objective(*each) for each in (single, packed)]
    for name, value in found[0].items():
        assert float(found[1][name]) == pytest.approx(float(value), rel=1e-5)
    assert float(found[0]["distillation_loss"]) > 1e-4


def test_a_model_that_attends_across_is_refused():
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    plain = keras.Model(ids, keras.layers.Dense(4)(keras.layers.Embedding(12, 4)(ids)))
    examples = language.completions(None, [[5, 6]], length=4, end=END)
    with pytest.raises(ValueError, match=r"an input named 'segments'. .* \['token_ids'\], and would attend across"):
        language.packed(examples, models=[attending(1), plain])


def reader(seed, vocabulary=12):
    """Return a model of token ids."""
    keras.utils.set_random_seed(seed)
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    return keras.Model(ids, keras.layers.Dense(vocabulary)(keras.layers.Embedding(vocabulary, 4)(ids)))


def test_the_mean_goes_over_the_tokens_that_are_learned_and_nothing_is_shifted_twice():
    x, y, weights = language.completions([[5, 6], [7, 8, 9]], [[10, 11], [3]], length=6, end=END)
    student, teacher = reader(1), reader(2)
    made = kd.Distiller(student=student, teacher=teacher)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    made.compile("sgd", loss, temperature=1.0)
    found = made.objective(x, y, weights)
    pairs = [(6, 10), (10, 11), (11, END), (9, 3), (3, END)]  # of what is read, and what it predicts: by hand
    read, next_ones = (np.array(each) for each in zip(*pairs, strict=True))
    p, q = (softmax(np.asarray(each(read[None])[0], "float64")) for each in (teacher, student))
    assert float(found["student_loss"]) == pytest.approx(-np.log(q[np.arange(5), next_ones]).mean(), rel=1e-5)
    assert float(found["distillation_loss"]) == pytest.approx(np.sum(p * np.log(p / q), -1).mean(), rel=1e-4)
