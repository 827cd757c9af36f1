"""Text in columns: JSON lines, Parquet, data sets of Hugging Face and TensorFlow Datasets.

A record maps the names of columns to values. All formats give records in the same way
(`records.Records`); `corpora.converted` writes a column of them as lines of text.
"""
