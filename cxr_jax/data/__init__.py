"""From a built dataset to arrays: sources, batches, labelled splits, label policy and budgets."""
