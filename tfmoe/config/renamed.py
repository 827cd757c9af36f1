"""Old names of keys, which configs and runs may still have."""

from tfmoe.config.problems import ConfigError, Problem, key_of

# The path of each key under its old name, and its name now.
RENAMED_KEYS = {("data", "batch_words"): "batch_tokens"}


def new_path(path):
    """A path with the names of now."""
    for old, name in RENAMED_KEYS.items():
        if path[: len(old)] == old:
            return (*old[:-1], name, *path[len(old) :])
    return path


def with_new_names(tree, where, at=()):
    """A tree with the names of now.

    Args:
        tree: what stands at the path `at` of a config: dictionaries, lists and scalars.
        where: `{path: "demo.yaml:7"}` for the paths of the tree, from the root of the config.
        at: a path.

    Returns:
        `(tree, where)`, both new.

    Raises:
        ConfigError: if a key is there under its old name and under its new one.
    """
    renamed = _renamed(tree, where, at)
    return renamed, {new_path(path): place for path, place in where.items()}


def _renamed(tree, where, at):
    if not isinstance(tree, dict):
        return tree
    result = {}
    for key, value in tree.items():
        path = (*at, key)
        new = new_path(path)
        if new != path and new[-1] in tree:
            message = f"is the old name of {key_of(new)}, which is given too; remove it"
            raise ConfigError([Problem(where.get(path, ""), key_of(path), message)])
        result[new[-1]] = _renamed(value, where, path)
    return result
