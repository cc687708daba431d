"""What the console writes: whole JSON documents in any encoding, and no control characters of others."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from genre_tf.cli import console
from genre_tf.cli.console import SafeConsole, print_json, without_controls

from .conftest import Genre

# Clears the screen, sets the window's title, turns text red by one C1 character, reverses letters.
HOSTILE = "Storm\x1b[2J \x1b]0;owned\x07 \x9b31m\x7f\x08 \u202etxt.exe\u2066"


@pytest.mark.parametrize(("encoding", "raw"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_a_json_document_is_whole_in_any_encoding(encoding, raw, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    print_json({"title": "Élan 新闻 🎈"})
    sys.stdout.flush()
    text = written.getvalue().decode(encoding)
    assert json.loads(text) == {"title": "Élan 新闻 🎈"} and ("新闻" in text) == raw


def test_a_document_may_be_one_line(capsys):
    print_json({"reader": "U1", "words": ["storm"]}, indent=None)
    assert capsys.readouterr().out == '{"reader": "U1", "words": ["storm"]}\n'


def controls(text: str) -> set[str]:
    return {character for character in text if without_controls(character) != character}


def test_letters_of_all_scripts_tabs_and_lines_stay():
    text = "Élan\t新闻 🎈\nשלום\u200f עולם می\u200cخواهم"
    assert without_controls(text) == text


def test_one_character_stands_for_each_control_character():
    assert without_controls("a\x1b[2J\x85b\r\u202e") == "a\ufffd[2J\ufffdb\ufffd\ufffd"


@pytest.mark.parametrize("terminal", [False, True])
def test_no_text_that_is_printed_controls_the_terminal(terminal):
    written = io.StringIO()
    screen = SafeConsole(file=written, force_terminal=terminal, color_system=None, width=200)
    screen.print(HOSTILE)
    table = Table("title")
    table.add_row(HOSTILE)
    screen.print(table)
    assert not controls(written.getvalue()) and written.getvalue().count("31m") == 2


def test_styles_of_our_own_reach_a_terminal():
    written = io.StringIO()
    SafeConsole(file=written, force_terminal=True, color_system="standard").print("no", style="red")
    assert written.getvalue() == "\x1b[31mno\x1b[0m\n"


def test_what_looks_like_markup_is_printed_as_it_is():
    written, title = io.StringIO(), "Cup final [red] 2:0 [/] :smile: [link=x]"
    screen = SafeConsole(file=written, force_terminal=True, color_system="standard", width=200)
    table = Table(title, title=title, box=None)
    table.add_row(title)
    screen.print(title)
    screen.print(table)
    assert written.getvalue().count(title) == 4


def test_the_consoles_of_the_command_line_are_safe():
    assert isinstance(console.results, SafeConsole) and isinstance(console.progress, SafeConsole)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_exit_status(closed: str, tmp_path: Path):
    command = f'"$0" -m genre_tf.cli.main check "$1" {closed}'
    found = subprocess.run(["sh", "-c", command, sys.executable, tmp_path / "none"], capture_output=True)
    assert found.returncode == 2 and b"Traceback" not in found.stderr
    assert (b"is not a folder" in found.stderr) == ("2>" not in closed)


def test_an_error_that_quotes_hostile_text_is_harmless(genre: Genre):
    found = genre("generate", "--kind", "title\x1b[2J", "--source", f"/{HOSTILE}".replace(" ", ""))
    assert found.returncode == 2 and not controls(found.stderr)
    found = genre("check", f"no_folder{HOSTILE}")
    assert found.returncode == 2 and "Storm" in found.stderr and not controls(found.stderr)


def test_json_carries_hostile_text_as_escapes(capsys):
    print_json({"title": HOSTILE})
    text = capsys.readouterr().out
    assert not controls(text) and json.loads(text) == {"title": HOSTILE}
