"""Causal language models of KerasHub: prompts and responses, examples made by hand, adapters, quantised models."""

import keras
import numpy as np
import pytest

import keras_kd as kd
from keras_kd import language
from tests import references
from tests.models import assert_same, softmax

pytest.importorskip("keras_hub")  # there is none for pre-releases of TensorFlow
from tests.tasks import causal_lm, distiller, instructed_lm, reviews  # noqa: E402

TEXTS, _ = reviews()
MEAN_OF_TOKENS = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")


def of_tokens(student, teacher, **arguments):
    """Return a Distiller whose means go over the tokens that count."""
    made = kd.Distiller(student=student, teacher=teacher)
    made.compile(keras.optimizers.SGD(0.1), MEAN_OF_TOKENS, **{"jit_compile": False, **arguments})
    return made


def without_preprocessor(*tasks):
    """Return tasks that read tokens."""
    for each in tasks:
        each.preprocessor = None
    return tasks


# Prompts and responses


def instructed():
    """Return a student and a teacher that take prompts and responses."""
    pytest.importorskip("sentencepiece")
    teacher = instructed_lm(2)
    student = instructed_lm(1)
    teacher.preprocessor.tokenizer.set_proto(teacher.preprocessor.tokenizer.proto)  # a seed was set meanwhile
    return student, teacher


INSTRUCTIONS = {"prompts": [text[:-5] for text in TEXTS[:6]], "responses": [text[-5:] for text in TEXTS[:6]]}


@pytest.mark.slow
def test_responses_are_learned_from_a_dict_of_prompts_and_responses():
    student, teacher = instructed()
    tokenizer = student.preprocessor.tokenizer
    made = of_tokens(student, teacher)
    found = {name: float(each) for name, each in made.objective(INSTRUCTIONS).items()}
    logs = made.fit(INSTRUCTIONS, batch_size=6, verbose=0, validation_data=(INSTRUCTIONS,)).history
    comparison = kd.compare({"student": student}, INSTRUCTIONS, teacher=None, rounds=0)
    assert np.log(comparison.quality["student"]["nll"]) == pytest.approx(np.log(logs["val_loss"][0]), abs=0.5)
    trained = student.get_weights()
    student, _ = without_preprocessor(instructed_lm(1), teacher)
    x, y, weights = language.completions(
        *INSTRUCTIONS.values(), length=16, start=tokenizer.start_token_id, end=tokenizer.end_token_id,
        tokenizer=lambda texts: [tokenizer(each) for each in texts],
    )  # fmt: skip
    by_hand = of_tokens(student, teacher)
    assert {name: float(each) for name, each in by_hand.objective(x, y, weights).items()} == pytest.approx(found, 1e-5)
    by_hand.fit(x, y, sample_weight=weights, batch_size=6, verbose=0)
    assert_same(student.get_weights(), trained, 1e-5)


def test_a_preprocessor_of_plain_texts_refuses_prompts_and_weights_by_name():
    made = distiller(causal_lm(1), causal_lm(2))
    with pytest.raises(ValueError, match=r"the keys \['prompts', 'responses'\].*language.completions"):
        made.fit(INSTRUCTIONS, verbose=0)
    with pytest.raises(ValueError, match="no `sample_weight` beside raw text for .*language.completions"):
        made.fit(TEXTS, np.zeros((22, 12)), sample_weight=np.ones(22), verbose=0)


# Examples made by hand


@pytest.mark.parametrize("pad", [0, 5])  # token 0 is the end token of GPT-2, and its padding
def test_a_task_learns_the_answers_and_compares_both_models_at_the_same_positions(pad):
    student, teacher = causal_lm(1), causal_lm(2)
    tokenizer = student.preprocessor.tokenizer
    without_preprocessor(student, teacher)
    prompts, answers = ["the film", "a"], [" of it", "nd"]
    x, y, weights = language.completions(prompts, answers, length=18, end=0, pad=pad, tokenizer=tokenizer)
    found = of_tokens(student, teacher).objective(x, y, weights)
    s, t, log_p = [], [], []
    for prompt, answer in zip(prompts, answers, strict=True):  # each row by itself, without padding
        ids = np.array([*tokenizer(prompt), *tokenizer(answer), 0])
        row = {"token_ids": ids[None], "padding_mask": np.ones((1, len(ids)), bool)}
        ours, theirs = (np.asarray(task(row), "float64")[0] for task in (student, teacher))
        for place in range(len(tokenizer(prompt)), len(ids)):  # a token is predicted by the logits before it
            s.append(ours[place - 1])
            t.append(theirs[place - 1])
            log_p.append(np.log(softmax(ours[place - 1])[ids[place]]))
    assert len(s) == len(tokenizer(" of it")) + 1 + 3
    assert float(found["student_loss"]) == pytest.approx(-np.mean(log_p), rel=1e-4)
    kl = 4.0 * references.kl_divergence(np.array(s) / 2, np.array(t) / 2)
    assert float(found["distillation_loss"]) == pytest.approx(kl.mean(), rel=1e-4)


@pytest.mark.slow
def test_what_a_task_has_generated_is_learned_to_its_stop_id():
    student, teacher = causal_lm(1), causal_lm(2)
    without_preprocessor(student, teacher)
    teacher.compile(sampler="greedy")
    prompts = {"token_ids": np.array([[2, 3, *[0] * 8]]), "padding_mask": np.arange(10)[None] < 2}
    whole = np.array(teacher.generate(prompts, stop_token_ids=None)["token_ids"])
    stop, other = int(whole[0, 4]), min(set(range(1, 29)) - set(whole[0].tolist()))
    made = teacher.generate(prompts, stop_token_ids=[stop, other])
    x, y, weights = language.generated(made["token_ids"], 2, stop_ids=[other, stop], padding_mask=made["padding_mask"])
    first = 2 + whole[0, 2:].tolist().index(stop)
    assert weights[0].tolist() == [0.0, *[1.0] * (first - 1), *[0.0] * (9 - first)]
    assert y[0, :first].tolist() == whole[0, 1 : first + 1].tolist()
    cut = ({name: each[:, :first] for name, each in x.items()}, y[:, :first], weights[:, :first])
    found = [float(of_tokens(student, teacher).objective(*each)["loss"]) for each in ((x, y, weights), cut)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


# Adapters, and models in 8 and 4 bits


def quantised(seed, mode):
    """Return a task of integers; None for one of floats."""
    task = causal_lm(seed)
    task.preprocessor(TEXTS)  # Keras quantises only what is built, tokenizers too
    if mode is not None:
        task.quantize(mode)
    return task


def adapted(seed, mode=None):
    """Return a task with adapters."""
    task = quantised(seed, mode)
    task.backbone.enable_lora(2)
    return task


def outputs(task):
    return np.asarray(task(causal_lm(1).preprocessor(TEXTS)[0]))


def written(task):
    """Return what a task generates, without an end."""
    return task.generate("the f", max_length=12, stop_token_ids=None)


def moving(student, teacher=None):
    """Return a Distiller that learns in few steps."""
    made = of_tokens(student, teacher or causal_lm(2))
    made.compile(keras.optimizers.Adam(0.03), MEAN_OF_TOKENS, jit_compile=False)
    return made


def fit(made, epochs=1, **arguments):
    return made.fit(TEXTS[:8], batch_size=8, epochs=epochs, verbose=0, **arguments).history


@pytest.mark.one_in(3)
@pytest.mark.slow
@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_a_student_with_adapters_trains_them_alone_and_is_saved_and_exported_with_them(mode, tmp_path):
    student = adapted(1, mode)
    before = {each.path: np.array(each) for each in student.variables}
    logs = fit(moving(student), epochs=8)
    assert logs["loss"][-1] < logs["loss"][0]
    moved = {each.path for each in student.variables if not np.array_equal(before[each.path], each)}
    assert moved and all("lora" in path or "bias" in path for path in moved)
    student.compile(sampler="greedy")
    assert len(written(student)) > len("the f")
    student.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    # A kernel of integers is rounded again when the adapters are merged into it: 15 levels are few for a comparison.
    if mode != "int4":
        allowed = 1e-5 if mode is None else 0.1 * np.ptp(outputs(student))
        np.testing.assert_allclose(outputs(loaded), outputs(student), rtol=0, atol=allowed)
    assert mode or not any("lora" in each.path for each in loaded.variables)
    arguments = {"representative": student.preprocessor(TEXTS)[0], "fresh": False}
    assert kd.export(student, tmp_path / "1", **arguments)["saved_model"].passed


@pytest.mark.one_in(2)
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_teacher_of_integers_teaches_is_saved_and_generates(mode, tmp_path):
    teacher, student = quantised(2, mode), causal_lm(1)
    made = moving(student, teacher)
    kl = 4.0 * references.kl_divergence(outputs(student).astype("float64") / 2, outputs(teacher) / 2)
    weights = np.asarray(student.preprocessor(TEXTS)[2])
    found = float(made.objective(TEXTS)["distillation_loss"])
    assert found == pytest.approx(np.sum(kl * weights) / np.sum(weights), rel=1e-4)
    before = [np.array(each) for each in teacher.variables]
    logs = fit(made, epochs=3)
    assert logs["loss"][-1] < logs["loss"][0]
    assert_same([np.array(each) for each in teacher.variables], before, 0.0)
    teacher.compile(sampler="greedy")
    teacher.save(tmp_path / "teacher.keras")
    loaded = keras.models.load_model(tmp_path / "teacher.keras")
    # Keras loses that activations are floats beside weights of 4 bits, and rounds them to 8.
    np.testing.assert_allclose(outputs(loaded), outputs(teacher), rtol=0, atol=1e-5 if mode == "int8" else 0.02)
    loaded.compile(sampler="greedy")
    assert len(written(loaded)) == len(written(teacher)) > len("the f")


@pytest.mark.slow
def test_what_keras_quantises_has_to_be_built():
    with pytest.raises(ValueError, match="isn't yet built"):  # were this no more, the advice could go
        causal_lm(1).quantize("int8")


def drawn(task):
    """Give adapters weights by which the task writes something else."""
    for each in task.variables:
        if "lora" in each.path:
            each.assign(5.0 * np.random.default_rng(0).normal(size=each.shape))


@pytest.mark.slow
def test_a_task_generates_as_before_until_it_is_compiled_again():
    task = quantised(1, None)
    task.compile(sampler="greedy")
    before = written(task)
    task.backbone.enable_lora(2)
    drawn(task)
    assert written(task) == before  # were this no more, the advice could go
    task.compile(sampler="greedy")
    assert written(task) != before


@pytest.mark.slow
def test_a_distiller_that_was_saved_with_adapters_does_not_go_on_with_all_weights(tmp_path):
    made = moving(adapted(1))
    fit(made)
    made.save(tmp_path / "distiller.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        loaded = keras.models.load_model(tmp_path / "distiller.keras")
    np.testing.assert_allclose(outputs(loaded.student), outputs(made.student), rtol=0, atol=1e-5)
    loaded.teacher = causal_lm(2)
    with pytest.raises(ValueError, match=r"the adapters \(LoRA\) of 2 layers .* merged .*enable_lora\(rank\)"):
        fit(loaded)
    loaded.student.backbone.enable_lora(2)
    loaded.compile("adam", MEAN_OF_TOKENS, jit_compile=False)
    frozen = [np.array(each) for each in loaded.student.non_trainable_variables]
    fit(loaded)
    assert_same([np.array(each) for each in loaded.student.non_trainable_variables], frozen, 0.0)


# Which tokens are the same


def with_vocabulary(task, change):
    """Return a task with another table of its tokens."""
    tokenizer = task.preprocessor.tokenizer
    tokenizer.set_vocabulary_and_merges(change(dict(tokenizer.vocabulary)), list(tokenizer.merges))
    return task


def swapped(table):
    return {**table, "a": table["b"], "b": table["a"]}


@pytest.mark.slow
def test_a_vocabulary_is_compared_by_its_ids_not_by_the_order_in_which_it_was_written():
    reordered = with_vocabulary(causal_lm(2), lambda table: dict(reversed(table.items())))
    kd.Distiller(student=causal_lm(1), teacher=reordered)
    with pytest.raises(ValueError, match="the vocabulary of the student"):
        kd.Distiller(student=causal_lm(1), teacher=with_vocabulary(causal_lm(2), swapped))
    found = kd.compare({"teacher": causal_lm(1), "other": with_vocabulary(causal_lm(2), swapped)}, TEXTS, rounds=0)
    assert list(found.quality["other"]) == ["bits_per_byte"]
