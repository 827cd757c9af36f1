"""Old names of keys, which older configs and runs still contain."""

from tfmoe.config.problems import ConfigError, Problem, key_of

# `{path with the old name: new name}`
RENAMED_KEYS = {("data", "batch_words"): "batch_tokens"}


def new_path(path):
    """A path with old names replaced."""
    for old, name in RENAMED_KEYS.items():
        if path[: len(old)] == old:
            return (*old[:-1], name, *path[len(old) :])
    return path


def with_new_names(tree, where, prefix=()):
    """Replaces old names in a tree.

    Args:
        tree: the value at the path `prefix` of a config: dictionaries, lists and scalars.
        where: `{path: "demo.yaml:7"}` for the paths of the tree, which begin with `prefix`.
        prefix: a path.

    Returns:
        `(tree, where)`, both new.

    Raises:
        ConfigError: if a key has both its old name and its new one.
    """
    renamed = _renamed(tree, where, prefix)
    return renamed, {new_path(path): line for path, line in where.items()}


def _renamed(tree, where, prefix):
    if not isinstance(tree, dict):
        return tree
    result = {}
    for key, value in tree.items():
        path = (*prefix, key)
        new = new_path(path)
        if new != path and new[-1] in tree:
            message = f"is the old name of {key_of(new)}, which is given too; remove it"
            raise ConfigError([Problem(where.get(path, ""), key_of(path), message)])
        result[new[-1]] = _renamed(value, where, path)
    return result
