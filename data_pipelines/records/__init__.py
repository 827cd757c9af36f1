"""Text in columns: JSON lines, Parquet, data sets of Hugging Face and TensorFlow Datasets.

A record maps the names of columns to values. All formats have the same
interface (`records.Records`); `corpora.converted` writes a column as lines of text.
"""
