"""Exports: a trained model as functions of strings that need TensorFlow only."""
