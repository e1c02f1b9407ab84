"""What this library tests itself with, and what others can test their stores and allocators with.

Nothing here is loaded by `import ciliumipam`. The oracles share no code with what they judge.
"""
