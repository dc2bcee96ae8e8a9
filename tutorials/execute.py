"""Run notebooks from top to bottom and keep their outputs: ``python tutorials/execute.py [NOTEBOOK ...]``.

Each notebook runs in this Python, in a folder of its own. It is written back when all cells have run; progress bars and log
lines (the standard error stream) are left out, pictures are reduced to 128 colours. A notebook that fails, takes longer than
five minutes or grows above 500 kB ends the run with an error.
"""

import argparse
import base64
import io
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

MAX_SECONDS = 300
MAX_BYTES = 500_000


def reduced(picture: str) -> str:
    """A PNG picture in base64 with fewer colours."""
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(128).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def tidy(cell: nbformat.NotebookNode) -> None:
    """Leave out the standard error stream and make pictures smaller."""
    cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            output.data["image/png"] = reduced(output.data["image/png"])


def execute(path: Path, max_seconds: float) -> float:
    """Run a notebook and write it back; the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=max_seconds, resources={"metadata": {"path": folder}}, record_timing=False
        )
        client.execute()
    seconds = time.perf_counter() - start
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell{number}"
        if cell.cell_type == "code":
            tidy(cell)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    nbformat.write(notebook, path)
    return seconds


def main() -> None:
    """Run the notebooks named on the command line, or all of this folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS, help="limit for each notebook")
    arguments = parser.parse_args()
    for path in arguments.notebooks or sorted(Path(__file__).parent.glob("*.ipynb")):
        seconds = execute(path, arguments.max_seconds)
        size = path.stat().st_size
        sys.stdout.write(f"{path.name}: {seconds:.0f} s, {size / 1e3:.0f} kB\n")
        sys.stdout.flush()
        if seconds > arguments.max_seconds or size > MAX_BYTES:
            sys.exit(f"{path.name}: more than {arguments.max_seconds:.0f} s or {MAX_BYTES / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
