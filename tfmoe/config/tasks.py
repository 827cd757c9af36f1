"""What a config's model is for."""

from tfmoe.config.language_task import LanguageTask
from tfmoe.config.translation_task import TranslationTask

TASKS = {"language_model": LanguageTask, "translation": TranslationTask}


def task_of(config):
    """The task of a config: a `LanguageTask` or a `TranslationTask`, which have the same methods.

    Nothing is read or written by making one.
    """
    return TASKS[config.model.name](config)
