"""The command `cmssl-hf`: one file per subcommand. Those of training are the scripts, which are installed as `cmssl_hf.scripts`."""
