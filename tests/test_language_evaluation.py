"""Language models compared: bits a byte, whatever their tokens are, and what it costs to generate."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_kd as kd
from keras_kd.evaluation import generation_costs
from keras_kd.evaluation.quality import measure
from tests import references

CLASSES = 7
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(6, 5, CLASSES))
IDS = RANDOM.integers(0, CLASSES, (6, 5))
WEIGHTS = (RANDOM.random((6, 5)) < 0.7).astype("float32")


def of_logits(x):
    return keras.ops.convert_to_tensor(x, "float32")


def test_bits_per_byte_of_tokens():
    found = measure(of_logits, (LOGITS, IDS, WEIGHTS), text_bytes=60)
    probabilities = np.take_along_axis(references._softmax(LOGITS), IDS[..., None], axis=-1)[..., 0]
    assert found["bits_per_byte"] == pytest.approx(np.sum(WEIGHTS * -np.log2(probabilities)) / 60, rel=1e-6)
    assert "perplexity" in found and "f1_macro" not in found


@pytest.mark.parametrize("text_bytes", [0, -1, 2.5])
def test_bytes_that_are_none_are_refused(text_bytes):
    with pytest.raises(ValueError, match="`text_bytes` to be a whole number"):
        measure(of_logits, (LOGITS, IDS), text_bytes=text_bytes)


def test_bytes_for_models_of_no_language_are_refused():
    with pytest.raises(ValueError, match="`text_bytes` for language models"):
        measure(of_logits, (LOGITS[:, 0], IDS[:, 0]), text_bytes=9)


# Tasks of KerasHub

pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
from tests.tasks import causal_lm, instructed_lm, reviews  # noqa: E402

TEXTS, _ = reviews()


def bits(task, texts):
    """Return -log2 of the probability of all tokens, from what the task's own preprocessor returns."""
    x, ids, weights = task.preprocessor(texts)
    probabilities = references._softmax(np.asarray(task(x), "float64"))
    of_ids = np.take_along_axis(probabilities, np.array(ids)[..., None], axis=-1)[..., 0]
    return float(np.sum(np.array(weights) * -np.log2(of_ids)))


@pytest.mark.slow
def test_models_of_other_vocabularies_are_compared_by_the_byte():
    models = {"other": causal_lm(3, length=30, more=["ab"]), "teacher": causal_lm(2, length=30)}
    models["student"] = causal_lm(1, length=30)
    found = kd.compare(models, TEXTS, rounds=0).quality
    size = sum(len(text.encode()) for text in TEXTS)
    for name, task in models.items():
        assert found[name]["bits_per_byte"] == pytest.approx(bits(task, TEXTS) / size, rel=1e-5)
    assert list(found["other"]) == ["bits_per_byte"]
    assert {"agreement", "kl_teacher_student", "perplexity"} <= set(found["student"])


def test_bytes_of_a_text_that_was_cut_are_those_of_its_tokens():
    task, texts = causal_lm(1, length=5), ["it", "the film"]
    # A start and an end leave "the " of the second, letter by letter, and the end is put in the place of what was cut.
    assert (
        task.preprocessor.tokenizer.detokenize(np.array(task.preprocessor(texts)[1])[1].tolist()) == "the <|endoftext|>"
    )
    assert measure(task, texts)["bits_per_byte"] == pytest.approx(bits(task, texts) / len("it" + "the "), rel=1e-5)


def test_bytes_are_those_of_utf8():
    # Two letters of two bytes each, four tokens: all that the byte pairs need is there.
    task = causal_lm(1, more=["Ã", "¶", "¼"])
    found = measure(task, ["öü"])
    assert found["bits_per_byte"] == pytest.approx(bits(task, ["öü"]) / 4, rel=1e-5)


def test_texts_that_are_read_once_are_refused_for_several_vocabularies():
    models = {"teacher": causal_lm(1), "other": causal_lm(2, more=["ab"])}
    with pytest.raises(TypeError, match="texts that can be read again.*generator"):
        kd.compare(models, ((np.array(TEXTS[:4], object),) for _ in range(2)), rounds=0)


@pytest.mark.slow
def test_labels_are_of_one_vocabulary():
    models = {"teacher": causal_lm(1), "other": causal_lm(2, more=["ab"])}
    _, ids, _ = models["teacher"].preprocessor(TEXTS)
    with pytest.raises(ValueError, match="the vocabulary of the student"):
        kd.compare(models, (np.array(TEXTS, object), np.array(ids)), rounds=0)


def test_what_it_costs_to_generate():
    task = causal_lm(1, length=9, units=6)
    found = generation_costs.of({"student": task, "function": of_logits}, np.array(["the film", "it"], object))
    assert list(found) == ["student"]
    # One layer, keys and values of six numbers for each of nine tokens.
    assert found["student"]["cache_bytes"] == 2 * 9 * 6 * 4
    assert found["student"]["tokens_per_second"] > 0
    # Of "the film" two letters are the prompt, of "it" one, each behind a start: of 18 tokens, 13 are generated.
    assert generation_costs._generated(task, ["th", "i"]) == 13
    assert generation_costs.of({"student": task}, np.zeros((2, 9), "int32")) == {}


@pytest.mark.slow
def test_a_comparison_shows_what_it_costs_to_generate():
    comparison = kd.compare({"teacher": causal_lm(1)}, TEXTS, rounds=10, memory=False)
    assert comparison.costs["teacher"][0].tokens_per_second > 0
    assert "tokens generated per second" in str(comparison) and "cache of one text" in str(comparison)
    assert tf.nest.flatten(comparison.to_dict()["models"]["teacher"]["quality"])


@pytest.mark.slow
def test_prompts_and_responses_are_measured_on_the_responses():
    pytest.importorskip("sentencepiece")
    task = instructed_lm(1)
    x = {"prompts": [text[:-5] for text in TEXTS[:6]], "responses": [text[-5:] for text in TEXTS[:6]]}
    size = len("".join(x["responses"]).encode())
    assert measure(task, x)["bits_per_byte"] == pytest.approx(bits(task, x) / size, rel=1e-5)
    assert generation_costs.of({"student": task}, x)["student"]["tokens_per_second"] > 0
