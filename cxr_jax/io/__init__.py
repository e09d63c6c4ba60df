"""Small tools that both packages need: atomic writes, bounded readers, images. Free of JAX."""
