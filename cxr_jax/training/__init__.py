"""One training: state, step, optimizer, devices, checkpoints, logs."""
