"""Mistakes within rounding, found by the pattern of the error: `shares` (how much of it), `predicted` (by each)."""
