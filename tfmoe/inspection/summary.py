"""How much each expert of a mixture is used, and for which words, in rows for a table."""

HEAD = ["expert", "load/mean", "importance/mean", "words that go there more than elsewhere"]


def expert_rows(use, words):
    """Rows of strings: an expert, its load and importance over their means, its words.

    Args:
        use: a `tfmoe.inspection.ExpertUse`.
        words: `{expert: list of words}` of the experts to show, in their order.
    """
    from tfmoe.inspection import over_mean

    load, importance = over_mean(use.load), over_mean(use.importance)
    return [
        [str(expert), f"{load[expert]:.2f}", f"{importance[expert]:.2f}", " ".join(mine)]
        for expert, mine in words.items()
    ]


def by_load(use):
    """All experts, those that get most tokens first: a list."""
    return (-use.load).argsort(kind="stable").tolist()
