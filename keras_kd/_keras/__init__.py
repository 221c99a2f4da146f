"""Every private name of Keras, TensorFlow and KerasTuner that the library relies on."""
