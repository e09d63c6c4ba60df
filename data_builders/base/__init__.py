"""Parts that all dataset builders share."""
