"""The field's mathematics, as pure functions: masks, scores, schedules, controls."""
