"""Language models at the size of their vocabularies."""

from keras_kd.language.aligned import AlignedTeacher as AlignedTeacher
from keras_kd.language.aligned import SpanDivergence as SpanDivergence
from keras_kd.language.aligned import span_terms as span_terms
from keras_kd.language.generated_examples import Generated as Generated
from keras_kd.language.generated_examples import generate as generate
from keras_kd.language.pieces import Pieces as Pieces
from keras_kd.language.pieces import pieces as pieces
from keras_kd.language.pieces import shared_tokens as shared_tokens
from keras_kd.language.spans import align as align
