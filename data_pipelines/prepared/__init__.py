"""Text as token ids in the cache, and the order in which training reads it."""
