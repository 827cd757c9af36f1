"""tfmoe: the sparsely-gated mixture of experts (Shazeer et al. 2017) for TensorFlow and Keras."""

__version__ = "0.1.0"
