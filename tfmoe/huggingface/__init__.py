"""Checkpoints of Hugging Face Transformers, of Mixtral and Qwen3-MoE: language models of tfmoe are
read from them and written as such.
"""

from tfmoe.huggingface.load import load_model
from tfmoe.huggingface.save import save_model, write_model

__all__ = ["load_model", "save_model", "write_model"]
