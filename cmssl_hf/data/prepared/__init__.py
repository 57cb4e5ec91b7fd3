"""Prepared folders: a release as Parquet shards of `input_values`, written once and read at memory speed."""
