"""Protocols on frozen features, and the predictions files that carry their scores to statistics."""
