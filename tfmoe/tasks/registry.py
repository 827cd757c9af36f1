"""The task of each kind of model."""

from tfmoe.config.schema import Config
from tfmoe.tasks.language_modeling import LanguageTask
from tfmoe.tasks.translation import TranslationTask

TASKS: dict[str, type[LanguageTask] | type[TranslationTask]] = {
    "language_model": LanguageTask,
    "translation": TranslationTask,
}


def task_of(config: Config) -> LanguageTask | TranslationTask:
    """Creates the task of a config: a `LanguageTask` or a `TranslationTask`, which have the same
    methods. Reads and writes nothing.
    """
    return TASKS[config.model.name](config)
