"""Language models: which tokens count, objectives without all logits, and texts that are written during training."""

from keras_kd.language.adaptive_share import AdaptiveShare as AdaptiveShare
from keras_kd.language.aligned import AlignedTeacher as AlignedTeacher
from keras_kd.language.aligned import SpanDivergence as SpanDivergence
from keras_kd.language.aligned import span_terms as span_terms
from keras_kd.language.completions import completions as completions
from keras_kd.language.completions import conversations as conversations
from keras_kd.language.completions import generated as generated
from keras_kd.language.generated_examples import Generated as Generated
from keras_kd.language.generated_examples import generate as generate
from keras_kd.language.packing import packed as packed
from keras_kd.language.pieces import Pieces as Pieces
from keras_kd.language.pieces import pieces as pieces
from keras_kd.language.pieces import shared_tokens as shared_tokens
from keras_kd.language.rollouts import Rollouts as Rollouts
from keras_kd.language.spans import align as align
from keras_kd.language.text_scores import mean_log_probability as mean_log_probability
from keras_kd.language.vocabularies import shared_vocabulary as shared_vocabulary
from keras_kd.losses._sequences import sequence_reverse_kl as sequence_reverse_kl
