"""The C++ tokens by which broken kernels are found in the sources."""

from __future__ import annotations

import pytest

from mutations import tokens


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a >>= b << 1", ["a", ">>=", "b", "<<", "1"]),
        ("a<<=b", ["a", "<<=", "b"]),
        ("x->y::z&&!w", ["x", "->", "y", "::", "z", "&&", "!", "w"]),
        ("i++ + ++j", ["i", "++", "+", "++", "j"]),
        ("f(Args&&... args)", ["f", "(", "Args", "&&", "...", "args", ")"]),
        ("0ull+1'000'000u", ["0ull", "+", "1'000'000u"]),
        ("1.5e-3f-.5", ["1.5e-3f", "-", ".5"]),
        ("0x1fU>>2", ["0x1fU", ">>", "2"]),
        ("a.b", ["a", ".", "b"]),
        ("3.*x", ["3.", "*", "x"]),
        ('"a // \\" b" "/*"', ['"a // \\" b"', '"/*"']),
        ("'\\'' + u8'x'", ["'\\''", "+", "u8'x'"]),
        ('R"x(a " // )x" ;', ['R"x(a " // )x"', ";"]),
        ("a /* b\n c */ d // e\nf", ["a", "d", "f"]),
        ("a / b * c", ["a", "/", "b", "*", "c"]),
        ("#pragma once\nint a;", ["#", "pragma", "once", "\n", "int", "a", ";"]),
        ("#define A \\\n  b\nc", ["#", "define", "A", "b", "\n", "c"]),
        ("#if A  // why\nb", ["#", "if", "A", "\n", "b"]),
        ("  #  endif\n", ["#", "endif", "\n"]),
        ("a ## b\nc", ["a", "##", "b", "c"]),
    ],
)
def test_tokens(code: str, expected: list[str]) -> None:
    assert tokens.texts(code) == expected


@pytest.mark.parametrize("code", ['"no end', "a \\ b", "'"])
def test_what_is_not_a_token(code: str) -> None:
    with pytest.raises(ValueError, match="line 2: not a C"):
        tokens.texts("int a;\n" + code)


@pytest.mark.parametrize(
    "code",
    [
        "{\n  sums[i] = 0;  // they count from zero\n  __syncthreads();\n}",
        "{sums [ i ]=\n0;__syncthreads (\n);}",
    ],
)
def test_replace_does_not_depend_on_the_format(code: str) -> None:
    result = tokens.replace(code, "sums[i] = 0;\n__syncthreads();", "sums[i] = 1;")
    assert tokens.texts(result) == tokens.texts("{ sums[i] = 1; }")


def test_what_is_outside_stays_as_it_is() -> None:
    assert tokens.replace("  a = b ; // c\n", "b", "d") == "  a = d ; // c\n"
    assert tokens.replace("f(a); // b\n\tg();\n", "f(a);", "") == " // b\n\tg();\n"


@pytest.mark.parametrize(
    ("code", "old", "message"),
    [
        ("a >> b", "a >", "0 times"),
        ("ab", "a", "0 times"),
        ("// a\n/* a */ b", "a", "0 times"),
        ("a b a", "a", "2 times"),
        ("a", "a b", "0 times"),
        ("#define A\nint b;", "A int b", "0 times"),
        ("a", "// nothing", "no token"),
    ],
)
def test_old_must_occur_once(code: str, old: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokens.replace(code, old, "c")


@pytest.mark.parametrize(
    ("code", "old", "new"), [("a=b;", "=", ""), ("a+b", "+", "+ // c"), ("x-a", "a", "-c")]
)
def test_new_may_not_merge_with_its_neighbours(code: str, old: str, new: str) -> None:
    with pytest.raises(ValueError, match="merges"):
        tokens.replace(code, old, new)
