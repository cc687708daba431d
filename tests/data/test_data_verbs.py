"""`genre check` and `genre prepare`: results on stdout, one or two lines for wrong input, the exit status."""

import json


def test_check_lists_every_fault_and_exits_with_1(genre, write_split):
    behaviors = ["1\tU1\tnever\tN1\tN3-1", "2\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-1 N4-0", "x"]
    data = write_split(behaviors=behaviors)
    done = genre("check", data)
    assert done.returncode == 1
    assert f"{data}/train/behaviors.tsv:1: time: 'never' is not a time" in done.stdout
    assert "behaviors.tsv:3: columns" in done.stdout
    assert "failed: 2 bad rows" in done.stdout
    allowed = genre("check", data, "--max-bad-rows", 2, "--json")
    assert allowed.returncode == 0
    report = json.loads(allowed.stdout)
    assert report["passed"]
    assert report["splits"][0]["bad_rows"] == 2
    assert report["splits"][0]["faults"][0]["line"] == 1


def test_check_prints_a_few_faults_and_the_count_of_the_rest(genre, write_split):
    done = genre("check", write_split(news=["x"] * 500))
    assert done.returncode == 1
    assert done.stdout.count("columns: 1 received") == 50
    assert "more faults" in done.stdout


def test_check_warns_where_no_reader_has_a_history(genre, write_split):
    data = write_split(behaviors=["1\tU1\t11/9/2019 9:00:00 AM\t\tN3-1 N4-0"])
    done, as_json = genre("check", data), genre("check", data, "--json")
    assert done.returncode == as_json.returncode == 0
    assert "warning: train: no reader has a history (readers: 1)" in done.stdout
    assert json.loads(as_json.stdout)["warnings"][0].startswith("train: no reader has a history")


def test_a_wrong_path_is_one_line_and_exit_status_2(genre, tmp_path):
    for verb in (["check", tmp_path / "nowhere"], ["prepare", tmp_path / "nowhere", tmp_path / "out"]):
        done = genre(*verb)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "is not a folder" in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_prepare_says_what_it_wrote_and_that_it_is_up_to_date(genre, write_split, tmp_path):
    data = write_split()
    done = genre("prepare", data, tmp_path / "out", "--validation-share", 0.25)
    assert done.returncode == 0, done.stderr
    assert "prepared: 5 articles, 3 training and 1 validation impressions, 4 clicks" in done.stdout
    again = genre("prepare", data, tmp_path / "out", "--validation-share", 0.25, "--json")
    assert json.loads(again.stdout)["articles"] == 5
    assert "up to date" in genre("prepare", data, tmp_path / "out", "--validation-share", 0.25).stdout
    assert genre("prepare", data, tmp_path / "out").returncode == 2


def test_the_hundredth_line_is_a_number_and_no_picture(genre, write_split):
    row = "\tU1\t11/9/2019 9:00:00 AM\tN1\tN3-1 N4-0"
    behaviors = [f"{number}{row}" for number in range(1, 100)] + ["100\tU1\tnever\tN1\tN3-1 N4-0"]
    assert "behaviors.tsv:100: time: 'never'" in genre("check", write_split(behaviors=behaviors)).stdout
