"""What a config's model is for."""

from tfmoe.tasks.language_modeling import LanguageTask
from tfmoe.tasks.translation import TranslationTask

TASKS = {"language_model": LanguageTask, "translation": TranslationTask}


def task_of(config):
    """The task of a config: a `LanguageTask` or a `TranslationTask`, which have the same methods.

    Nothing is read or written by making one.
    """
    return TASKS[config.model.name](config)
