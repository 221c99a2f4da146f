"""Tiny tasks of KerasHub, made of a configuration and vocabularies of a few words, and texts and images for them.

    python -m tests.tasks FILE.npz

trains the same Distiller on one device and on two replicas, and writes the weights and the logs. A process of its own:
logical devices have to be made before TensorFlow starts. tests/test_kerashub.py reads the file.
"""

import io
import string
import sys

import keras
import keras_hub
import numpy as np
import tensorflow as tf

import keras_kd as kd

LENGTH = 8
WORDS = ["good", "great", "bad", "poor", "the", "film", "plot", "of", "and", "it"]
OTHER_WORDS = ["film", "the", "go", "##od", "gr", "##eat", "bad", "po", "##or"]
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def reviews(rows: int = 22) -> tuple[list[str], np.ndarray]:
    """Return texts, of which the last batch of eight is smaller, and whether they praise."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, rows)
    texts = [" ".join(random.permutation([*random.choice(WORDS[4:], 3), WORDS[2 * (1 - y)]])) for y in labels]
    return texts, labels


def photographs(rows: int = 12, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return images from 0 to 255, dark and bright ones, and which they are."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, rows)
    images = random.integers(0, 128, (rows, size, size, 3)) + 100 * labels[:, None, None, None]
    return images.astype("uint8"), labels


def lively(task):
    """Return a task with larger weights: those that KerasHub draws predict the same for everything."""
    task.set_weights([30 * each if each.ndim > 1 else each for each in task.get_weights()])
    return task


def bert_tokenizer(words=WORDS):
    """Return a tokenizer of some words."""
    return keras_hub.models.BertTokenizer(vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])


def bert_backbone(tokenizer, units):
    """Return a BERT of one layer."""
    return keras_hub.models.BertBackbone(
        vocabulary_size=tokenizer.vocabulary_size(), num_layers=1, num_heads=2, hidden_dim=units,
        intermediate_dim=units, max_sequence_length=2 * LENGTH, dropout=0.0,
    )  # fmt: skip


def classifier(seed: int, words=WORDS, length: int = LENGTH, units: int = 4, classes: int = 2):
    """Return a task that classifies texts."""
    keras.utils.set_random_seed(seed)
    tokenizer = bert_tokenizer(words)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=length)
    backbone = bert_backbone(tokenizer, units)
    return lively(keras_hub.models.BertTextClassifier(backbone, classes, preprocessor=preprocessor, dropout=0.0))


def byte_pair_classifier(seed: int, units: int = 8, classes: int = 2):
    """Return a task that classifies texts, letter by letter."""
    keras.utils.set_random_seed(seed)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *string.ascii_lowercase, "Ġt"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = keras_hub.models.RobertaTokenizer(vocabulary=vocabulary, merges=["Ġ t"])
    preprocessor = keras_hub.models.RobertaTextClassifierPreprocessor(tokenizer, sequence_length=2 * LENGTH)
    backbone = keras_hub.models.RobertaBackbone(
        vocabulary_size=len(tokens), num_layers=1, num_heads=2, hidden_dim=units, intermediate_dim=units,
        max_sequence_length=2 * LENGTH, dropout=0.0,
    )  # fmt: skip
    return keras_hub.models.RobertaTextClassifier(backbone, classes, preprocessor=preprocessor, dropout=0.0)


def masked_lm(seed: int, words=WORDS, units: int = 4):
    """Return a task that predicts masked tokens."""
    keras.utils.set_random_seed(seed)
    tokenizer = bert_tokenizer(words)
    preprocessor = keras_hub.models.BertMaskedLMPreprocessor(
        tokenizer, sequence_length=LENGTH, mask_selection_length=3, mask_selection_rate=0.4
    )
    return lively(keras_hub.models.BertMaskedLM(bert_backbone(tokenizer, units), preprocessor=preprocessor))


def causal_lm(seed: int, length: int = 12, units: int = 4, more: str = ""):
    """Return a task that predicts the next letter; `more` are tokens beside these."""
    keras.utils.set_random_seed(seed)
    tokens = ["<|endoftext|>", "Ġ", *string.ascii_lowercase, "Ġt", *more]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=["Ġ t"])
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=len(tokens), num_layers=1, num_heads=2, hidden_dim=units, intermediate_dim=units,
        max_sequence_length=32, dropout=0.0,
    )  # fmt: skip
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=length)
    return lively(keras_hub.models.GPT2CausalLM(backbone, preprocessor=preprocessor))


def instructed_lm(seed: int, length: int = 16):
    """Return a task that predicts the next token, whose preprocessor takes prompts and responses.

    Whoever sets a random seed later breaks its tokenizer: TensorFlow drops the resource of SentencePiece then.
    """
    import sentencepiece

    keras.utils.set_random_seed(seed)
    texts, _ = reviews()
    proto = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=proto, vocab_size=40, model_type="bpe", hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        control_symbols=["<img>", "<start_of_image>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>"],
        minloglevel=2,
    )  # fmt: skip
    tokenizer = keras_hub.models.Gemma3Tokenizer(proto=proto.getvalue())
    backbone = keras_hub.models.Gemma3Backbone(
        vocabulary_size=tokenizer.vocabulary_size(), image_size=16, num_layers=1, num_query_heads=2,
        num_key_value_heads=1, hidden_dim=8, intermediate_dim=8, head_dim=4,
    )  # fmt: skip
    preprocessor = keras_hub.models.Gemma3CausalLMPreprocessor(tokenizer, sequence_length=length)
    return lively(keras_hub.models.Gemma3CausalLM(preprocessor=preprocessor, backbone=backbone))


def image_classifier(seed: int, size: int, scale: float = 1 / 255, classes: int = 2):
    """Return a task that classifies images of any size and numbers from 0 to 255."""
    keras.utils.set_random_seed(seed)
    converter = keras_hub.layers.ImageConverter(image_size=(size, size), scale=scale, offset=-0.5)
    backbone = keras_hub.models.ResNetBackbone(
        [64], [3], [64], [1], [1], block_type="basic_block", image_shape=(size, size, 3)
    )
    preprocessor = keras_hub.models.ResNetImageClassifierPreprocessor(converter)
    return keras_hub.models.ResNetImageClassifier(backbone, classes, preprocessor=preprocessor)


def distiller(student, teacher, learning_rate: float = 0.1, **arguments) -> kd.Distiller:
    """Return a compiled Distiller."""
    made = kd.Distiller(student=student, teacher=teacher)
    made.compile(keras.optimizers.SGD(learning_rate), CROSS_ENTROPY, **{"jit_compile": False, **arguments})
    return made


def main(file: str) -> None:
    """Train on strings for two epochs, without a strategy and with one."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}
    texts, labels = reviews()
    found = {}
    for devices, strategy in strategies.items():
        with strategy.scope():
            both = {"classifier": (classifier(1), classifier(2, OTHER_WORDS)), "causal": (causal_lm(1), causal_lm(2))}
            distillers = {name: distiller(*pair, temperature=2.0) for name, pair in both.items()}
        for name, each in distillers.items():
            y = labels if name == "classifier" else None
            history = each.fit(texts, y, batch_size=8, epochs=2, shuffle=False, verbose=0).history
            found[f"{devices} {name} loss"] = history["loss"]
            weights = each.student.get_weights()
            found |= {f"{devices} {name} weight {number}": weight for number, weight in enumerate(weights)}
    np.savez(file, **found)


if __name__ == "__main__":
    main(sys.argv[1])
