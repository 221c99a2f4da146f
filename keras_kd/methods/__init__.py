"""One short function per published method: its terms, with the paper's defaults.

They go into a Distiller::

    distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.dkd())
    distiller = kd.Distiller(student=student, teacher=teacher, terms=kd.methods.kd() + kd.methods.fitnets(pairs))

A method is a list of terms, so methods are added with `+`. Its weights are the paper's, for the `alpha` that its
docstring names: with alpha = 0.5, teacher and labels count as 1 to 1, times the weight. Where a method has its own
temperature, it goes before the compiled one; `temperature=None` takes the compiled one.

Feature methods take pairs of layers, [("student_layer", "teacher_layer"), ...]; `suggest_pairs` finds some.
"""

from keras_kd.layer_matching import suggest_pairs as suggest_pairs
from keras_kd.local_logits import with_local_logits as with_local_logits
from keras_kd.methods.cross_architecture import mgd as mgd
from keras_kd.methods.cross_architecture import ofa as ofa
from keras_kd.methods.cross_architecture import vitkd as vitkd
from keras_kd.methods.cross_architecture import vkd as vkd
from keras_kd.methods.of_backbones import backbone as backbone
from keras_kd.methods.of_backbones import dino as dino
from keras_kd.methods.of_detectors import detector as detector
from keras_kd.methods.of_local_logits import sdd as sdd
from keras_kd.methods.on_features import attention_transfer as attention_transfer
from keras_kd.methods.on_features import cwd as cwd
from keras_kd.methods.on_features import fitnets as fitnets
from keras_kd.methods.on_features import fsp as fsp
from keras_kd.methods.on_features import nst as nst
from keras_kd.methods.on_features import review as review
from keras_kd.methods.on_features import sim as sim
from keras_kd.methods.on_features import vid as vid
from keras_kd.methods.on_logits import deit as deit
from keras_kd.methods.on_logits import dist as dist
from keras_kd.methods.on_logits import dkd as dkd
from keras_kd.methods.on_logits import kd as kd
from keras_kd.methods.on_logits import multi_label as multi_label
from keras_kd.methods.on_logits import multi_level as multi_level
from keras_kd.methods.on_logits import nkd as nkd
from keras_kd.methods.on_logits import regression as regression
from keras_kd.methods.on_logits import standardized as standardized
from keras_kd.methods.on_logits import ttm as ttm
from keras_kd.methods.on_policy import distillm2 as distillm2
from keras_kd.methods.on_policy import minillm as minillm
from keras_kd.methods.on_relations import correlation as correlation
from keras_kd.methods.on_relations import crd as crd
from keras_kd.methods.on_relations import pkt as pkt
from keras_kd.methods.on_relations import rkd as rkd
from keras_kd.methods.on_relations import similarity_preserving as similarity_preserving
from keras_kd.methods.on_tokens import distilbert as distilbert
from keras_kd.methods.on_tokens import distillm as distillm
from keras_kd.methods.on_tokens import gkd as gkd
from keras_kd.methods.on_tokens import minilm as minilm
from keras_kd.methods.on_tokens import universal_logits as universal_logits
