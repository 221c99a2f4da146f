"""Language models: which tokens count, objectives without all logits, and texts that are written during training."""

import typing

from keras_kd._lazy import attach as _attach

if typing.TYPE_CHECKING:
    from keras_kd.language.adaptive_share import AdaptiveShare as AdaptiveShare
    from keras_kd.language.aligned import AlignedTeacher as AlignedTeacher
    from keras_kd.language.aligned import SpanDivergence as SpanDivergence
    from keras_kd.language.aligned import span_terms as span_terms
    from keras_kd.language.completion_examples import completions as completions
    from keras_kd.language.completion_examples import conversations as conversations
    from keras_kd.language.completion_examples import generated as generated
    from keras_kd.language.generated_examples import Generated as Generated
    from keras_kd.language.generated_examples import generate as generate
    from keras_kd.language.packing import packed as packed
    from keras_kd.language.rollouts import Rollouts as Rollouts
    from keras_kd.language.spans import align as align
    from keras_kd.language.text_scores import mean_log_probability as mean_log_probability
    from keras_kd.language.token_pieces import Pieces as Pieces
    from keras_kd.language.token_pieces import pieces as pieces
    from keras_kd.language.token_pieces import shared_tokens as shared_tokens
    from keras_kd.language.vocabularies import shared_vocabulary as shared_vocabulary
    from keras_kd.losses._sequences import sequence_reverse_kl as sequence_reverse_kl

_LATER = {
    "AdaptiveShare": "keras_kd.language.adaptive_share",
    "AlignedTeacher": "keras_kd.language.aligned",
    "SpanDivergence": "keras_kd.language.aligned",
    "span_terms": "keras_kd.language.aligned",
    "completions": "keras_kd.language.completion_examples",
    "conversations": "keras_kd.language.completion_examples",
    "generated": "keras_kd.language.completion_examples",
    "Generated": "keras_kd.language.generated_examples",
    "generate": "keras_kd.language.generated_examples",
    "packed": "keras_kd.language.packing",
    "Pieces": "keras_kd.language.token_pieces",
    "pieces": "keras_kd.language.token_pieces",
    "shared_tokens": "keras_kd.language.token_pieces",
    "Rollouts": "keras_kd.language.rollouts",
    "align": "keras_kd.language.spans",
    "mean_log_probability": "keras_kd.language.text_scores",
    "shared_vocabulary": "keras_kd.language.vocabularies",
    "sequence_reverse_kl": "keras_kd.losses._sequences",
}

__getattr__, __dir__, __all__ = _attach(__name__, _LATER)
