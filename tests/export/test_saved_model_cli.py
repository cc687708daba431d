"""TensorFlow's own tool, which knows neither this package nor TensorFlow Text, answers from raw strings."""

import json
import re
import subprocess
import sys
from pathlib import Path


def test_score_text_is_answered_from_raw_strings(exported):
    rows = {"history_text": ["rates rise\nrates fall"], "candidates_text": ["rain ends\ncolds"]}
    inputs = ";".join(f"{name}={json.dumps(texts)}" for name, texts in rows.items())
    command = [Path(sys.executable).with_name("saved_model_cli"), "run", "--dir", exported]
    command += ["--tag_set", "serve", "--signature_def", "score_text", "--input_exprs", inputs]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-500:]
    found = re.search(r"output key click_probability:\n\[\[(\S+) (\S+)\]\]", answer.stdout)
    assert found and all(0.0 <= float(number) <= 1.0 for number in found.groups()), answer.stdout
