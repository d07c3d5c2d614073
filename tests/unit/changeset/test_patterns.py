from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.changeset import globs
from streamer.changeset.patterns import Patterns, Selection
from streamer.errors import InvalidRequest

# What moby's patternmatcher says (its own table of cases).
SINGLE = [
    ("**", "file", True),
    ("**", "file/", True),
    ("**/", "file", True),
    ("**/", "dir/file", True),
    ("**/**", "dir/file", True),
    ("dir/**", "dir/file", True),
    ("dir/**", "dir/dir2/file", True),
    ("**/dir", "dir/file", True),
    ("**/dir2/*", "dir/dir2/file", True),
    ("**/dir2/**", "dir/dir2/dir2/file", True),
    ("**file", "file", True),
    ("**file", "dir/file", True),
    ("**/file", "dir/file", True),
    ("**file", "dir/dir/file", True),
    ("**/file*", "dir/dir/file.txt", True),
    ("**/file*txt", "dir/dir/file.txt", True),
    ("**/file*.txt", "dir/dir/file.txt", True),
    ("**/file*.txt*", "dir/dir/file.txt", True),
    ("**/**/*.txt", "dir/dir/file.txt", True),
    ("**/**/*.txt2", "dir/dir/file.txt", False),
    ("**/*.txt", "file.txt", True),
    ("**/**/*.txt", "file.txt", True),
    ("a**/*.txt", "a/file.txt", True),
    ("a**/*.txt", "a/dir/dir/file.txt", True),
    ("a/*.txt", "a/dir/file.txt", False),
    ("a/*.txt", "a/file.txt", True),
    ("a/*.txt**", "a/file.txt", True),
    ("a[b-d]e", "ae", False),
    ("a[b-d]e", "ace", True),
    ("a[b-d]e", "aae", False),
    ("a[^b-d]e", "aze", True),
    (".*", ".foo", True),
    (".*", "foo", False),
    ("abc.def", "abcdef", False),
    ("abc.def", "abc.def", True),
    ("abc.def", "abcZdef", False),
    ("abc?def", "abcZdef", True),
    ("abc?def", "abcdef", False),
    ("a\\\\", "a\\", True),
    ("a\\.b", "a.b", True),
        ("a\\ab", "a\ab", True),
        ("\\w", "a", True),
        ("\\w", ".", False),
    ("a\\.b", "axb", False),
    ("**/foo/bar", "foo/bar", True),
    ("**/foo/bar", "dir/foo/bar", True),
    ("**/foo/bar", "dir/dir2/foo/bar", True),
    ("abc/**", "abc", False),
    ("abc/**", "abc/def", True),
    ("abc/**", "abc/def/ghi", True),
    ("**/.foo", ".foo", True),
    ("**/.foo", "bar.foo", False),
    ("a(b)c/def", "a(b)c/def", True),
    ("a(b)c/def", "a(b)c/xyz", False),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
    ("dist/p.py-2.4.0rc3.dev36+g0-py3.whl", "dist/p.py-2.4.0rc3.dev36+g0-py3.whl", True),
    ("dist/*.whl", "dist/p.py-2.4.0rc3.dev36+g0-py3.whl", True),
    ("fileutils.go", "fileutils.go", True),
    ("fileutils.go", "fileutils.go/x", True),
    ("*", "fileutils.go", True),
    ("docs", "docs/README.md", True),
    ("docs/", "docs/README.md", True),
    ("/docs", "docs/README.md", False),
    ("a?c", "a/c", False),
    ("é?", "éé", True),
    ("[[]x", "[x", True),
    ("*a*b*c*d", "xaxbxcxd", True),
    ("*a*b*c*d", "xaxb/xcxd", False),
    ("**/a/**/b/**/c", "a/b/c", True),
    ("**/a/**/b/**/c", "x/a/y/z/b/c", True),
    ("**/a/**/b/**/c", "x/ay/z/b/c", False),
    ("*/*/*/**", "a/b/c/d", True),
    ("*/*/*/**", "a/b", False),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "path", "expected"), SINGLE)
def test_one_pattern(pattern: str, path: str, expected: bool) -> None:
    assert Patterns([pattern]).matches(path) is expected


LISTS = [
    (["**", "!util/docker/web"], "util/docker/web/foo", False),
    (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
    (["**", "!dist/p.py-2.4.0rc3.dev36+g0-py3.whl"], "dist/p.py-2.4.0rc3.dev36+g0-py3.whl", False),
    (["**", "!dist/*.whl"], "dist/x.whl", False),
    (["docs", "!docs/README.md"], "docs/README.md", False),
    (["docs/", "!docs/README.md"], "docs/README.md", False),
    (["docs/*", "!docs/README.md"], "docs/README.md", False),
    (["*.md", "!README*.md", "README-secret.md"], "README-secret.md", True),
    (["*.md", "!README*.md"], "README.md", False),
    (["!a", "a"], "a", True),
    (["a", "!a/b", "a/b/c"], "a/b/c", True),
    (["a", "!a/b", "a/b/c"], "a/b/d", False),
    ([" a ", "", "  "], "a", True),
    ([], "a", False),
]  # fmt: skip


@pytest.mark.parametrize(("patterns", "path", "expected"), LISTS)
def test_lists(patterns: list[str], path: str, expected: bool) -> None:
    assert Patterns(patterns).matches(path) is expected


@pytest.mark.parametrize(
    "bad", ["!", " ! ", "[", "a[", "[]a]", "[a", "[a-", "[-]", "[^]", "[\\", "a\\", "[z-a]", "x/[[]/[", "!["]
)
def test_bad_patterns_are_named(bad: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(repr(bad))):
        Patterns(["fine", bad])


def test_a_hostile_pattern_takes_no_time() -> None:
    patterns = Patterns(["*a" * 40 + "b", "**/a" * 40 + "/b", "a**/**/*a*a*a*a*a*a*a*ab"])
    started = time.process_time()
    assert not patterns.matches("/".join(["a" * 255] * 16) + "/c")
    assert time.process_time() - started < 2


@given(
    st.text("ab/*?.", max_size=12).filter(lambda p: "***" not in p),
    st.lists(st.text("ab.\n", min_size=1, max_size=3), min_size=1, max_size=4),
)
def test_stepping_says_what_the_expression_says(pattern: str, components: list[str]) -> None:
    parts = globs._parts(pattern)
    expression = re.compile("".join(globs._source(part) for part in parts))
    path = "/".join(components)
    assert globs._stepping(parts)(path) is (expression.fullmatch(path) is not None)


@given(
    st.lists(st.sampled_from(["a", "!a", "*", "**", "!a/b", "a/*", "!**/c", "b/**", "**/b", "!b"]), max_size=5),
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=20),
)
def test_remembering_directories_changes_nothing(patterns: list[str], paths: list[str]) -> None:
    remembering = Patterns(patterns)
    for path in paths:
        assert remembering.matches(path) is Patterns(patterns).matches(path) is plainly(patterns, path)


def plainly(patterns: list[str], path: str) -> bool:
    """moby's MatchesOrParentMatches, word by word."""
    components = path.split("/")
    ways = ["/".join(components[:n]) for n in range(1, len(components) + 1)]
    matched = False
    for pattern in patterns:
        negated = pattern.startswith("!")
        match = globs.compiled(pattern[negated:])
        if negated is matched and any(match(way) for way in ways):
            matched = not negated
    return matched


@pytest.mark.parametrize(
    ("patterns", "directory", "expected"),
    [
        (["docs", "!docs/README.md"], "docs", True),
        (["docs", "!docs/a/b"], "docs/a", True),
        (["docs", "!docs"], "docs", True),
        (["docs", "!docsx/a"], "docs", False),
        (["docs", "!**/keep"], "docs", False),
        (["docs"], "docs", False),
    ],
)
def test_excluded_directories_that_are_looked_into(patterns: list[str], directory: str, expected: bool) -> None:
    assert Patterns(patterns).may_reinclude_below(directory) is expected


SELECTIONS = [
    ([], [], {"a", "a/b", "a/b/c", "d", "d/e"}, {"a", "a/b", "d"}),
    ([], ["a"], {"d", "d/e"}, {"d"}),
    ([], ["a", "!a/b/c"], {"a/b/c", "d", "d/e"}, {"a", "a/b", "d"}),
    (["a/b"], [], {"a/b", "a/b/c"}, {"a", "a/b"}),
    (["**/e"], [], {"d/e"}, {"a", "a/b", "d"}),
    (["a", "d"], ["**/c"], {"a", "a/b", "d", "d/e"}, {"a", "a/b", "d"}),
]


@pytest.mark.parametrize(("include", "exclude", "emitted", "entered"), SELECTIONS)
def test_selection(include: list[str], exclude: list[str], emitted: set[str], entered: set[str]) -> None:
    selection = Selection(Patterns(include), Patterns(exclude))
    paths = ["a", "a/b", "a/b/c", "d", "d/e"]
    assert selection.emits(b"", True) and selection.enters(b"")
    assert {p for p in paths if selection.emits(p.encode(), p in ("a", "a/b", "d"))} == emitted
    assert {p for p in ("a", "a/b", "d") if selection.enters(p.encode())} == entered


def test_names_that_are_no_utf8() -> None:
    assert not Selection(exclude=Patterns(["x?"])).emits(b"x\xff", False)
