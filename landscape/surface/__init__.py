"""The loss along lines and planes through parameter space."""
