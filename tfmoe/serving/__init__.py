"""From a trained model to functions of strings that TensorFlow alone can run."""
