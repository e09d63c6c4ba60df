"""From a built dataset to arrays: sources, batches for pretraining, labelled splits, label policy."""
