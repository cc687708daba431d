"""Server files from `templates/`: real files with Jinja's marks, strict about what is missing."""

import json
from functools import cache
from importlib import resources
from typing import Any

import jinja2


def rendered(template: str, **values: Any) -> str:
    """A template of this package, filled in.

    Args:
        template: path within `templates/`, as `docker/Dockerfile`.
        values: every name that it uses; a missing one is an error of ours.
    """
    return _environment().get_template(template).render(**values)


def verbatim(template: str) -> str:
    """A file of `templates/` that has nothing to fill in."""
    return resources.files("genre_tf.serving").joinpath("templates", template).read_text("utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(verbatim),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  (no HTML: values are quoted by the filters below, or checked beforehand)
    )
    environment.filters["quoted"] = quoted
    environment.filters["compose_quoted"] = compose_quoted
    environment.filters["kubernetes_quoted"] = kubernetes_quoted
    return environment


def quoted(value: object) -> str:
    """A YAML scalar that means exactly this string: a JSON string is one."""
    return json.dumps(str(value), ensure_ascii=False)


def compose_quoted(value: object) -> str:
    """The same for docker-compose, which replaces $NAME inside of strings."""
    return quoted(str(value).replace("$", "$$"))


def kubernetes_quoted(value: object) -> str:
    """The same for arguments of containers in Kubernetes, which replaces $(NAME) inside of them."""
    return quoted(str(value).replace("$(", "$$("))
