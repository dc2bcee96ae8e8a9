"""``python -m scgpcl``, the same as ``scgpcl``."""

from scgpcl.cli import app

if __name__ == "__main__":
    app(prog_name="scgpcl")
