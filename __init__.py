"""tfm: one transformer, any sequence."""
