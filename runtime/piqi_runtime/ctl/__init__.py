"""The command ``piqictl``: a module for each of its commands, with `add_parser(commands)` and `main(arguments)`."""
