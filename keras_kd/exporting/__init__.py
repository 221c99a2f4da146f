"""The student alone, in one or several formats, each reloaded and compared with the student before it is called good.

A format is a module that writes a file or folder; `formats` lists them, `keras_kd.runtimes` runs what they
wrote, and `deviation.py` compares its outputs with the student's.
"""

from keras_kd.exporting.export import export as export
from keras_kd.exporting.export_report import Artefact as Artefact
from keras_kd.exporting.export_report import ExportReport as ExportReport
from keras_kd.exporting.file_sensitivity import FileSensitivity as FileSensitivity
from keras_kd.exporting.file_sensitivity import FloatLayer as FloatLayer
from keras_kd.exporting.file_sensitivity import file_sensitivity as file_sensitivity
