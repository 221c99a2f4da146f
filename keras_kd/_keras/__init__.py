"""Every private name of Keras, TensorFlow, KerasTuner and Ray that the library relies on."""
