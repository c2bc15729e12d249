"""The command line, `dai-plugin`."""
