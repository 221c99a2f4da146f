"""Pipelines of fits: assistants, generations, peers, exits, refinement, pseudo-labels.

Plain functions over `Distiller`. Each returns what it trained and a record, a list of `Stage`. All take::

    compile_arguments   as for `Distiller.compile`: {"optimizer": ..., "loss": ..., "temperature": 4.0, "alpha": 0.5}
    fit_arguments       as for `fit`: {"x": ..., "y": ..., "validation_data": ..., "epochs": 10}
    folder              where stages are kept, for a pipeline that was killed to go on where it was; None keeps nothing
    seed                of fresh weights, of the order of arrays, of dropout

A resumed pipeline ends with the weights of an uninterrupted one if its data come in an order that is fixed or that
`tf.data.Dataset.shuffle(..., seed=...)` gives (without `steps_per_epoch`), and no callback of yours keeps a state of
its own between epochs.
"""

from keras_kd.stages.chains import averaged as averaged
from keras_kd.stages.chains import born_again as born_again
from keras_kd.stages.chains import teacher_assistants as teacher_assistants
from keras_kd.stages.peers import mutual as mutual
from keras_kd.stages.peers import self_distillation as self_distillation
from keras_kd.stages.pipeline import Stage as Stage
from keras_kd.stages.pseudo_labels import PseudoLabels as PseudoLabels
from keras_kd.stages.pseudo_labels import pseudo_label as pseudo_label
from keras_kd.stages.pseudo_labels import refine as refine
from keras_kd.stages.pseudo_labels import soft_labels as soft_labels
