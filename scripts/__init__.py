"""The commands of training and their YAML files: scripts in a checkout, `cmssl_hf.scripts` where the package is installed."""
