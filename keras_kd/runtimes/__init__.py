"""Run models from their files, in this process or a fresh one, and time them."""
