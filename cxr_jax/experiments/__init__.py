"""The loops: the only rooms with side effects. run.py calls `<config.experiment>.run`."""
