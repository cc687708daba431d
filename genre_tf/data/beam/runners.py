"""The Beam runner that does the work, and its options; Beam itself is imported only when needed."""

import io
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from genre_tf.errors import FailureError, InputError

if TYPE_CHECKING:
    import apache_beam as beam

# Beam's DirectRunner first downloads a Go program (Prism); this runner works in the process itself.
_IN_PROCESS = "FnApiRunner"


@dataclass(frozen=True)
class Runner:
    """A Beam runner by name.

    Args:
        name: `DirectRunner` (this machine), `DataflowRunner`, `FlinkRunner`, `SparkRunner`, any other that
            Beam knows, or the full name of a class.
        options: for Beam's `PipelineOptions`, `NAME=VALUE` or `NAME` each, such as `direct_num_workers=2`.
            With `temp_location`, workers need not see this machine's files: inputs are copied there and
            results from there. Distributed workers need genre_tf: `setup_file` or `sdk_container_image`.
    """

    name: str
    options: tuple[str, ...] = ()

    def require(self) -> None:
        """Checks what can be checked before any work.

        Raises:
            InputError: Beam is not installed, or there is no such runner or option.
        """
        if find_spec("apache_beam") is None:
            raise InputError(
                f"--runner {self.name} needs Apache Beam, which is not installed; "
                "run: pip install 'genre-tf[beam]'"
            )
        # Beam would warn that the clients of Google Cloud, another extra, are not installed.
        logging.disable(logging.WARNING)
        try:
            import apache_beam  # noqa: F401
        finally:
            logging.disable(logging.NOTSET)
        self._pipeline()

    @property
    def temp_location(self) -> str | None:
        """A folder for this job below the given `temp_location`; None if none was given."""
        name = "temp_location="
        given = [value.removeprefix(name) for value in self.options if value.startswith(name)]
        return f"{given[-1].rstrip('/')}/genre-{uuid.uuid4().hex}" if given else None

    @contextmanager
    def pipeline(self) -> Iterator["beam.Pipeline"]:
        """A pipeline to fill; it is run when the block ends.

        Raises:
            InputError: no such runner or option.
            FailureError: the pipeline failed.
        """
        pipeline = self._pipeline()
        yield pipeline
        try:
            pipeline.run().wait_until_finish()
        except Exception as error:  # whatever a runner raises, workers' own errors included
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            told = next((line for line in lines if "[while running" in line), lines[-1] if lines else "")
            raise FailureError(
                f"the pipeline failed on {self.name}: {told or type(error).__name__}; nothing was written"
            ) from error

    def _pipeline(self) -> "beam.Pipeline":
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        name = _IN_PROCESS if self.name.lower() in ("directrunner", "direct") else self.name
        # Beam parses options with argparse, which prints its whole usage and exits the program.
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                options = PipelineOptions([f"--{option}" for option in self.options])
                given = options.get_all_options(drop_default=True, retain_unknown_options=True)
            if name == _IN_PROCESS:  # other runners may know options that Beam's Python side does not
                known = PipelineOptions([]).get_all_options()
                for option in sorted(given.keys() - known.keys()):
                    raise InputError(f"Beam has no option {option!r}; check --runner-option")
            return beam.Pipeline(runner=name, options=options)
        except (ValueError, ImportError, AttributeError) as error:
            raise InputError(f"Beam cannot use --runner {self.name}: {error}") from None
        except SystemExit:
            told = said.getvalue().strip().splitlines()[-1].partition("error: ")[2]
            raise InputError(f"Beam does not take a --runner-option: {told}") from None
