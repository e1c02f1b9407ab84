"""The command `ciliumipam`: a thin rim that reads files, calls the library and prints. It decides nothing.

Where to look::

    parser, completion   words and options
    main, codes          errors to sentences and exit codes
    commands, changing   one function a command: those that look, those that change; `replaying`: of a journal
    input, yaml_input    manifests and plans, as plain values
    values, tables       what is printed: plain values for programs, columns for people
    diff, tree, watch    changes with a sign, indented lines as a tree, what changes as it changes
    style, jsonpath      the values of -o
    text, progress       what goes to standard error and to a terminal

Everything else is the library's.
"""
