"""Training loops of others, with the real packages; `make frameworks` runs them."""
