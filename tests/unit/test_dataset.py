"""dataset: what is read from a CSV, what is said of a wrong one, and the order in which its rows are taken."""

import csv
import gzip
import io
import os
import re
import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from parts import dataset

quickly = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(tmp_path, content) -> dataset.Dataset:
    path = tmp_path / "data.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return dataset.read(str(path))


def sentence(tmp_path, content) -> str:
    with pytest.raises(ValueError) as refused:
        read(tmp_path, content)
    return str(refused.value)


# What is read.


def test_the_last_column_is_the_label_and_the_rest_are_the_features(tmp_path):
    data = read(tmp_path, "a,b,label\n1,2,3\n4,5,6\n")
    assert data.names == ["a", "b", "label"]
    assert data.table.dtype == np.float64
    assert data.table.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    X, y_true = data.take(2)
    assert sorted(np.column_stack([X, y_true]).tolist()) == data.table.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "a,b\n1,2\n3,4",
        "a,b\r\n1,2\r\n3,4\r\n",
        "a,b\r1,2\r3,4\r",
        '\ufeff"a","b"\r\n"1", 2\r\n3,4e0',
        ' a , "b" \n 1 ,\t2\n"3" , "4"\n',
        "\n \na,b\n\n1,2\n  \n\t\n3,4\n\n\n",
        "a,b\n+1,2.\n3.0,.4e1\n",
    ],
    ids=["plain", "no last end", "CRLF", "CR", "as a spreadsheet", "spaces", "blank lines", "other numbers"],
)
def test_a_data_set_may_be_written_in_several_ways(tmp_path, text):
    data = read(tmp_path, text)
    assert data.names == ["a", "b"]
    assert data.table.tolist() == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "header", ['"weight, kg",label', "weight;kg,label", "größe,label", "x,x", "nan,inf", "a b,c d"]
)
def test_a_column_may_have_any_name_but_a_number(tmp_path, header):
    assert read(tmp_path, f"{header}\n1,2\n").names == next(csv.reader([header]))


finite = st.floats(allow_nan=False, allow_infinity=False)


@quickly
@given(
    st.integers(2, 5).flatmap(lambda width: st.lists(st.lists(finite, min_size=width, max_size=width), min_size=1)),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_every_number_is_read_as_it_was_written(tmp_path, table, quoting, end):
    file = io.StringIO()
    writer = csv.writer(file, quoting=quoting, lineterminator=end)
    writer.writerows([[f"column {i}" for i in range(len(table[0]))], *table])
    assert read(tmp_path, file.getvalue()).table.tolist() == table


@quickly
@given(st.binary(max_size=200))
@example(b"\xef\xbb\xbf")
@example("\ud83d,b\n".encode("utf-8", "surrogatepass"))
@example(b"a,b\n\0,2\n")
@example(b"a,b\n1,'2\n")
def test_whatever_is_in_a_file_it_is_read_or_refused_with_one_line_that_can_be_printed(tmp_path, content):
    try:
        assert np.isfinite(read(tmp_path, content).table).all()
    except ValueError as error:
        assert re.match("line [0-9]+[ ,]|it must ", str(error))
        assert b"\n" not in str(error).encode()


# What is said of a wrong one: what was found, where, and what would be right.

NO_UTF_8 = "it must be in UTF-8, but has the byte {}; save the file as CSV in UTF-8"
TWO = "must name two columns or more, with ',' between (not ';' or tabs):"
NO_NAME = "must name every column, but column {} has no name; if it is the index that pandas adds, write the file with"
NUMBER = "must be a finite number like 1234.5 (no comma), not"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", f"line 1 {TWO} ''"),
        ("\na\n1\n", f"line 2 {TWO} 'a'"),
        ("# by hand\na,b\n1,2\n", f"line 1 {TWO} '# by hand'"),
        ("a" * 10**5, f"line 1 {TWO} '{'a' * 50}…'"),
        ("a;b;label\n1,5;2,5;3\n", f"line 1 {TWO} 'a;b;label'"),
        ("a\tb\n1\t2\n", rf"line 1 {TWO} 'a\tb'"),
        ("1,2\n3,4\n", "line 1 must name the columns, but has numbers: '1,2'"),
        ('a,"b\x1b[31m"\n1,2\n', "line 1 must name the columns in characters that can be printed: 'a,b\\x1b[31m'"),
        ("a,-1.5e3\n3,4\n", "line 1 must name the columns, but has numbers: 'a,-1.5e3'"),
        (",a,b\n0,1,2\n", f"line 1 {NO_NAME.format(1)} index=False"),
        ("a,b,\n1,2,\n", f"line 1 {NO_NAME.format(3)} index=False"),
        ("a,b\n", "it must have a row below its header"),
        ("a,b\n \n\n", "it must have a row below its header"),
        ("a,b\n1,2\n\n3\n", "line 4 must have 2 columns as the header, not 1: '3'"),
        ("a,b\n1,2,3\n4,5,6\n", "line 2 must have 2 columns as the header, not 3: '1,2,3'"),
        ("a,b\n1;2\n", "line 2 must have 2 columns as the header, not 1: '1;2'"),
        ("a,b\n1,2\n3,male\n", f"line 3, column 'b' {NUMBER} 'male'"),
        (f"a,b\n1,{'x' * 99}\n", f"line 2, column 'b' {NUMBER} '{'x' * 50}…'"),
        (f"{'a' * 99},b\nx,1\n", f"line 2, column '{'a' * 50}…' {NUMBER} 'x'"),
        ("a,b\n1, \n", f"line 2, column 'b' {NUMBER} ''"),
        ("a,b\nnan,2\n", f"line 2, column 'a' {NUMBER} 'nan'"),
        ("a,b\n1,1e999\n", f"line 2, column 'b' {NUMBER} '1e999'"),
        ("a,b\n1,2 # two\n", f"line 2, column 'b' {NUMBER} '2 # two'"),
        ("a,b\n2021_05,2\n", f"line 2, column 'a' {NUMBER} '2021_05'"),
        ('a,b\n"1","2,5"\n', f"line 2, column 'b' {NUMBER} '2,5'"),
        ('a,b\n1,"2\n3,x\n', f"line 3, column 'b' {NUMBER} 'x'"),
        ('a,"b\nc"\n1,2\n', "line 2 must have 2 columns as the header, not 1: 'c\"'"),
        ("größe,b\n1,2\n".encode("latin-1"), NO_UTF_8.format("0xf6")),
        (b"a,b\n1,2\n1,\xff\n", NO_UTF_8.format("0xff")),
        ("\ufeffa,b\n1,2\n".encode("utf-16-le"), NO_UTF_8.format("0xff")),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), NO_UTF_8.format("0x8b")),
        ("a" * 200_000, "it must be a CSV that can be read: field larger than field limit (131072)"),
    ],
)
def test_a_wrong_data_set_is_refused_with_what_was_found_where_and_what_would_be_right(tmp_path, content, expected):
    assert sentence(tmp_path, content) == expected


def test_a_fault_far_down_in_a_long_data_set_is_found(tmp_path):
    lines = ["a,b", *(f"{i},1" for i in range(2, 300_001))]
    assert len(read(tmp_path, "\n".join(lines)).table) == 299_999
    lines[249_999] = "250000,one"
    assert sentence(tmp_path, "\n".join(lines)).startswith("line 250000, column 'b'")


def test_a_data_set_larger_than_memory_is_meant_to_hold_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "data.csv"
    path.touch()
    os.truncate(path, 2_345_000_000)
    with pytest.raises(ValueError, match=r"^it must have at most 100 MB, not 2345$"):
        dataset.read(str(path))


def test_a_line_that_as_cells_would_take_all_memory_is_refused(tmp_path):
    assert (
        sentence(tmp_path, "a,b\n" + "1," * 6_000_000) == "line 2 must have at most 10000000 characters, not 12000000"
    )


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    def give_up(*_):
        raise AssertionError("it waits")

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    try:
        for path in (pipe, tmp_path, "/dev/zero"):
            with pytest.raises(ValueError, match=r"^it must be a file, not a directory, a pipe or a device$"):
                dataset.read(str(path))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_file_that_is_not_there_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"^it must be a CSV that can be read: .*No such file or directory"):
        dataset.read(str(tmp_path / "data.csv"))


# The order in which the rows are taken.


def rows(n: int) -> dataset.Dataset:
    return dataset.Dataset(["feature", "label"], np.column_stack([np.arange(n), 10 * np.arange(n)]).astype(float))


@pytest.mark.parametrize("n", [1, 3, 442])
@given(sizes=st.lists(st.integers(0, 1000), max_size=8))
def test_rows_are_taken_over_and_over_whatever_the_batch_size(n, sizes):
    data = rows(n)
    taken = [data.take(size) for size in sizes]
    assert [(X.shape, y_true.shape) for X, y_true in taken] == [((size, 1), (size,)) for size in sizes]
    assert [x for X, _ in taken for x in X[:, 0]] == [k % n for k in range(sum(sizes))]
    assert [y for _, y_true in taken for y in y_true] == [10 * (k % n) for k in range(sum(sizes))]
