"""kubectl's JSONPath dialect: what each form gives, and that nothing that is wrong passes."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam.cli.jsonpath import Template
from ciliumipam.errors import InvalidRequestError

VALUE: dict[str, Any] = {
    "items": [
        {"name": "a", "size": 10, "podCIDRs": ["10.0.0.0/24", "fd00::/64"], "labels": {"kubernetes.io/hostname": "h-a"}, "up": True},
        {"name": "b", "size": 9.5, "podCIDRs": [], "labels": {}, "up": False, "gone": None},
        {"name": "c", "size": 200, "podCIDRs": ["10.0.2.0/24"], "labels": {"rack": "r 1"}, "like": "c"},
    ],
    "counts": {"ipv4": 3, "ipv6": 1},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.items[*].name}", "a b c"),
        ("{$.items[*].name}", "a b c"),
        ("{@.items[*].name}", "a b c"),
        ("{items[*].name}", "a b c"),
        ("{['items'][0]['name']}", "a"),
        ('{["items"][0]["name"]}', "a"),
        ("{.items[0].name}", "a"),
        ("{.items[-1].name}", "c"),
        ("{.items[0,2].name}", "a c"),
        ("{.items[ 0 , 2 ].name}", "a c"),
        ("{.items[0:2].name}", "a b"),
        ("{.items[1:].name}", "b c"),
        ("{.items[:-1].name}", "a b"),
        ("{.items[::2].name}", "a c"),
        ("{.items[7:9].name}", ""),
        ("{.items[*].size}", "10 9.5 200"),
        ("{.items[0].podCIDRs}", '["10.0.0.0/24", "fd00::/64"]'),
        ("{.counts}", '{"ipv4": 3, "ipv6": 1}'),
        ("{.counts.*}", "3 1"),
        ("{.counts[*]}", "3 1"),
        ("{.items[0].labels.kubernetes\\.io/hostname}", "h-a"),
        ("{.items[0].labels['kubernetes.io/hostname']}", "h-a"),
        ("{..name}", "a b c"),
        ("{..podCIDRs[0:1]}", "10.0.0.0/24 10.0.2.0/24"),
        ("{.items..rack}", "r 1"),
        ("{.items[*].absent}", ""),
        ("{.items[*].absent.deeper}", ""),
        ("{.items[1].gone}", "null"),
        ("{.items[1].gone.deeper}", ""),
        ("{.items[*].up}", "true false"),
        ('{.items[?(@.name=="b")].size}', "9.5"),
        ("{.items[?(@.name=='b')].size}", "9.5"),
        ("{.items[?(@.name!='b')].name}", "a c"),
        ("{.items[?( @.size > 9.5 )].name}", "a c"),
        ("{.items[?(@.size>=9.5)].name}", "a b c"),
        ("{.items[?(@.size<10)].name}", "b"),
        ("{.items[?(@.size<=10)].name}", "a b"),
        ("{.items[?(@.size==10)].name}", "a"),
        ("{.items[?(@.size=='10')].name}", ""),
        ("{.items[?(@.up==true)].name}", "a"),
        ("{.items[?(@.up==false)].name}", "b"),
        ("{.items[?(@.up==1)].name}", ""),
        ("{.items[?(@.up!=true)].name}", "b c"),
        ("{.items[?(@.like)].name}", "c"),
        ("{.items[?(@.gone)].name}", "b"),
        ("{.items[?(@.gone==null)].name}", "b"),
        ("{.items[?(@.like==@.name)].name}", "c"),
        ("{.items[?(@.size==$.items[0].size)].name}", "a"),
        ("{.items[?(@.labels.rack=='r 1')].name}", "c"),
        ("{.items[?(@.name=='b' )].name}", "b"),
        ("{.items[0].podCIDRs[?(@!='fd00::/64')]}", "10.0.0.0/24"),
        ("name: {.items[0].name}!", "name: a!"),
        ('{.items[0].name}{"\\t"}{.items[0].size}{"\\n"}', "a\t10\n"),
        ("{.items[0].name}{'\\n'}", "a\n"),
        ('{.items[0].name " is " .items[0].size}', "a is 10"),
        ('{range .items[*]}{.name}={.size}{"\\n"}{end}', "a=10\nb=9.5\nc=200\n"),
        ("{range .items[*]}{.name}:{range .podCIDRs[*]} {@}{end};{end}", "a: 10.0.0.0/24 fd00::/64;b:;c: 10.0.2.0/24;"),
        ("{range .items[*]}{.name}/{$.counts.ipv4} {end}", "a/3 b/3 c/3 "),
        ("{range .items[*].podCIDRs[*]}[{.}]{end}", "[10.0.0.0/24][fd00::/64][10.0.2.0/24]"),
        ("{range .items[?(@.size>9)]}{.name}{end}", "abc"),
        ("{range .items[9:]}x{end}none", "none"),
    ],
)
def test_a_template_gives_what_kubectl_would(template: str, text: str) -> None:
    assert Template(template).render(VALUE) == text


def test_the_whole_value_is_json() -> None:
    assert json.loads(Template("{}".replace("}", "$}")).render(VALUE)) == VALUE
    assert json.loads(Template("{@}").render(VALUE)) == json.loads(Template("{.}").render(VALUE)) == VALUE


@pytest.mark.parametrize(
    ("template", "at", "reason"),
    [
        ("", 1, "nothing in braces"),
        (".items", 1, "nothing in braces"),
        ("{", 2, "a path is expected"),
        ("{}", 3, "nothing stands between the braces"),
        ("{.items", 8, "a path is expected"),
        ("{.items[}", 9, "expected an index"),
        ("{.items[0}", 10, "expected ']', found '}'"),
        ("{.items[0", 10, "expected ']', found the end"),
        ("{.items[a]}", 9, "expected an index"),
        ("{.items[::0]}", 13, "at least 1"),
        ("{.items[::-1]}", 14, "at least 1"),
        ("{.items[?(@.a=)]}", 14, "expected ')', found '='"),
        ("{.items[?(@.a==)]}", 16, "a value is expected"),
        ("{.items[?(@.a=='b']}", 19, "expected ')', found ']'"),
        ("{.items[?(@.a=='b')}", 20, "expected ']', found '}'"),
        ("{.items[?(@.a==b)]}", 16, "a value is expected"),
        ("{.items['a}", 9, "no end"),
        ("{'a\\q'}", 5, "\\q is not an escape"),
        ("{'a", 2, "no end"),
        ("{.items.}", 9, "a field's name is expected"),
        ("{...a}", 4, "a field's name is expected"),
        ("{range .items[*]}{.name}", 25, "a {range} has no {end}"),
        ("{range}x{end}", 7, "a path is expected"),
        ("x{end}", 7, "{end} without a {range}"),
        ("{range .items[*]}{end}{end}", 28, "{end} without a {range}"),
        ("{range .}" * 21, 190, "more than 20 ranges"),
        ("{.items[99999999999]}", 18, "expected ']'"),
        ("{.items[?(@.a==01)]}", 17, "expected ')', found '1'"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused_with_the_place(template: str, at: int, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Template(template)

    assert f"at character {at}: " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{.items.name}", "no field 'name' in a list of 3; its entries are reached with [*]"),
        ("{.items[3].name}", "no entry [3] in a list of 3"),
        ("{.items[-4].name}", "no entry [-4] in a list of 3"),
        ("{.items[1].podCIDRs[0]}", "no entry [0] in a list of 0"),
        ("{.items[*].name.x}", "no field 'x' in \"a\""),
        ("{.counts[0]}", "only a list has [...] entries, found a mapping"),
        ("{.counts[?(@.a)]}", "only a list has [...] entries, found a mapping"),
        ("{.items[0].size[*]}", "[*] needs a list or a mapping, found 10"),
        ("{.items[?(@.podCIDRs[*]=='x')].name}", "a filter compares one value, and its path has 2"),
        ("{.items[?(@.up<true)].name}", "true has no order"),
    ],
)
def test_a_value_of_another_shape_is_an_error_and_not_an_empty_answer(template: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Template(template).render(VALUE)

    assert reason in str(caught.value)


names = st.text(st.characters(codec="utf-8", exclude_characters="\\'"), min_size=1, max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | names, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)
)


@given(values, st.data())
def test_a_path_of_keys_and_indices_finds_what_python_finds(value: Any, data: st.DataObject) -> None:
    path, here = "", value
    while isinstance(here, (list, dict)) and here:
        key = data.draw(st.sampled_from(sorted(here)) if isinstance(here, dict) else st.integers(0, len(here) - 1))
        path += f"['{key}']" if isinstance(here, dict) else f"[{key}]"
        here = here[key]

    text = Template("{$" + path + "}").render(value)

    assert text == (here if isinstance(here, str) else json.dumps(here))


@given(st.lists(st.integers(), max_size=6), *[st.none() | st.integers(-8, 8)] * 2, st.none() | st.integers(1, 4))
def test_a_slice_is_what_it_is_in_python(items: list[int], start: int | None, stop: int | None, step: int | None) -> None:
    shown = "".join("" if each is None else str(each) for each in (start,)) + ":" + ("" if stop is None else str(stop))
    shown += "" if step is None else f":{step}"

    assert Template(f"{{.items[{shown}]}}").render({"items": items}) == " ".join(map(str, items[start:stop:step]))


@given(st.text(alphabet="{}[]()?@$.'\"*:,=<>! \\nrangeend01-a", max_size=20))
def test_any_text_is_a_template_or_bad_input(text: str) -> None:
    with suppress(InvalidRequestError):
        Template(text).render(VALUE)
