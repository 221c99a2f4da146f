"""Distillation losses: pure functions (student, teacher[, labels]) -> loss per example."""

from keras_kd.losses.logits import binary_kl as binary_kl
from keras_kd.losses.logits import kl_divergence as kl_divergence
from keras_kd.losses.regression import squared_error as squared_error
