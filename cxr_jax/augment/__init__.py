"""Augmentation on the device: pure functions of a key and an image."""
