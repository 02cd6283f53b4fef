"""Single-stage commands: files in, files out, the parameters of the Python functions."""
