"""The command `vit-hybrid`: one file per subcommand, each thin: parse, call, print."""
