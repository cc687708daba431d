"""A run's figure of latency against load, drawn by `genre bench serve`."""

from pathlib import Path

_MOST_PICTURE_BYTES = 4_000_000


def latency_picture(run: Path) -> bytes | None:
    """Read the figure that `genre bench serve --picture RUN/reports/latency.png` drew.

    Args:
        run: the run folder.

    Returns:
        A PNG file, or None if there is none, or if it is not a PNG or is too large to be ours.
    """
    file = run / "reports" / "latency.png"
    if not file.is_file() or file.stat().st_size > _MOST_PICTURE_BYTES:
        return None
    content = file.read_bytes()
    return content if content.startswith(b"\x89PNG\r\n\x1a\n") else None
