"""Key layouts that several importers and exporters share."""
