"""tfmoe: the sparsely-gated mixture of experts (Shazeer et al. 2017) for TensorFlow and Keras."""

import keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        f"tfmoe runs on Keras' TensorFlow backend, but Keras was started with "
        f"{keras.config.backend()!r}: set the environment variable KERAS_BACKEND=tensorflow"
    )

__version__ = "0.1.0"
