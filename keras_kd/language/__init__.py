"""Language models at the size of their vocabularies."""

from keras_kd.language.generation import Generated as Generated
from keras_kd.language.generation import generate as generate
