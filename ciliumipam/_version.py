"""The version, read by the build backend. Only this file has it."""

__version__ = "0.1.0.dev0"
