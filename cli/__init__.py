"""The `landscape` command: parse, call the library, print."""
