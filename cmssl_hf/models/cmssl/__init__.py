"""The CM-SSL models, written the way transformers writes its own."""
