"""Comparing models on tasks: frozen and fine-tuned encoders beside constant and classical predictors, with intervals that hold
for new people. Nothing here trains an encoder; `cmssl_hf.training` does."""
