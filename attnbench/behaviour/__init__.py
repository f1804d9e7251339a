"""What a backend does where libraries differ (alignment, rows without keys, NaN, scale, LSE), found by posing it."""
