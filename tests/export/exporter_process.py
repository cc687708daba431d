"""Publishes small versions without end, in a process that a test can kill at any moment.

Use: exporter_process.py MODELS/NAME FILES BYTES; prints each published version on a line.
"""

import hashlib
import sys
from pathlib import Path

from genre_tf.export.publishing import publish, staged


def write_version(folder: Path, files: int, size: int, seed: int) -> None:
    """Files, and last a `manifest` of their digests: a version is whole if all of it is true."""
    (folder / "variables").mkdir()
    lines = []
    for number in range(files):
        content = hashlib.sha256(f"{seed} {number}".encode()).digest() * (size // 32)
        path = folder / ("variables" if number % 2 else ".") / f"part-{number}"
        path.write_bytes(content)
        lines.append(f"{path.relative_to(folder)} {hashlib.sha256(content).hexdigest()}\n")
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "manifest").write_text("".join(lines) + "end\n")


def main() -> None:
    servable, files, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    seed = 0
    while True:
        with staged(servable) as folder:
            write_version(folder, files, size, seed)
            version = publish(folder)
        sys.stdout.write(f"{version.name}\n")
        sys.stdout.flush()
        seed += 1


if __name__ == "__main__":
    main()
