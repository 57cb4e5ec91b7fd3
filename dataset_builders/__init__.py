"""One folder per dataset, each a loading script `<name>/<name>.py`; installed as `cmssl_hf.dataset_builders`."""
