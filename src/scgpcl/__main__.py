"""Entry point for ``python -m scgpcl``, which is equivalent to the command ``scgpcl``."""

from scgpcl.cli import app

if __name__ == "__main__":
    app(prog_name="scgpcl")
