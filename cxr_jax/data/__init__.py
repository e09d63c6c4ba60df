"""Built datasets as arrays: sources, batches, labelled splits and label policies."""
