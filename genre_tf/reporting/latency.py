"""Where a run keeps its picture of latency against load, which `genre bench serve` draws."""

from pathlib import Path

_MOST_PICTURE_BYTES = 4_000_000


def latency_picture(run: Path) -> bytes | None:
    """What `genre bench serve --picture RUN/reports/latency.png` drew.

    Args:
        run: the run folder.

    Returns:
        A PNG file, or None where there is none, or a file that is no PNG or too large to be one of ours.
    """
    file = run / "reports" / "latency.png"
    if not file.is_file() or file.stat().st_size > _MOST_PICTURE_BYTES:
        return None
    content = file.read_bytes()
    return content if content.startswith(b"\x89PNG\r\n\x1a\n") else None
