"""What all dataset builders share."""
