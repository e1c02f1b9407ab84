"""The command `ciliumipam`: a thin rim that reads files, calls the library and prints. It decides nothing.

`main` parses the arguments and turns errors into sentences and exit codes, `commands` has one function a command, `input` reads
manifests, `output` writes tables, JSON and YAML.
"""
