"""How things are timed, kept, compared and shown."""
