"""More data for a student: rows without labels, mixtures, views and noise, for which a teacher predicts.

A few labelled rows tell little about what a teacher has learned. Any further row does, with or without a label, as long
as the teacher sees the very row that the student sees.
"""

from keras_kd.augment.changes import Change as Change
from keras_kd.augment.column_noise import Noise as Noise
from keras_kd.augment.cut_mix import CutMix as CutMix
from keras_kd.augment.generated_rows import munge as munge
from keras_kd.augment.generated_rows import smote as smote
from keras_kd.augment.image_views import KerasLayer as KerasLayer
from keras_kd.augment.image_views import RandomResizedCrop as RandomResizedCrop
from keras_kd.augment.image_views import mirrored as mirrored
from keras_kd.augment.mixing import MixUp as MixUp
from keras_kd.augment.seeded_batches import Beside as Beside
from keras_kd.augment.seeded_batches import apply as apply
from keras_kd.augment.seeded_batches import each as each
from keras_kd.augment.token_noise import TokenNoise as TokenNoise
from keras_kd.augment.unlabelled import on_all_rows as on_all_rows
from keras_kd.augment.unlabelled import with_unlabelled as with_unlabelled
