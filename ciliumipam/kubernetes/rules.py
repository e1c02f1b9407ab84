"""CEL rules by which an API server refuses what `PoolSpec` would refuse, with the same sentences.

A server evaluates each rule on its own, also where another one has failed, and an expression that breaks off is told as such instead of
as a sentence. So a rule about CIDRs holds where one of them is no CIDR, or has host bits: that is told by the rules of that one.

A server also refuses a definition whose rules could become expensive, by an estimate that knows lengths of fields only: the length of
what a call returns counts as without limit. So values come out of fields by macros, and sentences are made by `format`.
"""

from __future__ import annotations

from ciliumipam.cidr import WIDTH, Family
from ciliumipam.kubernetes.schema import Schema, rule
from ciliumipam.names import LABEL_TEXT_RULE, SUBDOMAIN_RULE

_KEY_RULE = f"an optional DNS name of at most 253 characters and '/', then 1 to 63 characters: {LABEL_TEXT_RULE}"

_EDGE = r"[^\\W_]"
"""A letter or digit; short patterns count as cheap ones."""
_LABEL_TEXT = rf"{_EDGE}([-\\w.]*{_EDGE})?"
_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"


def _told(sentence: str, *values: str) -> str:
    """A sentence as an expression: each %s and %d of it is the next value. Quotes in it are written as they are."""
    return f"{_literal(sentence)}.format([{', '.join(values)}])"


def _literal(text: str) -> str:
    return "'" + text.replace("'", r"\'") + "'"


# ------------------------------------------------------------------------------------------------------ CIDRs


def _of(family: Family, cidr: str) -> str:
    return f"{cidr}.contains(':')" if family == 6 else f"!{cidr}.contains(':')"


def cidr_rules() -> tuple[Schema, ...]:
    """Rules for one CIDR."""
    width = "self.contains(':') ? 128 : 32"
    write = "'%s' is not a usable CIDR: write address/length, as in 10.0.0.0/16 or fd00::/48"
    lacks = "'%s' is not a usable CIDR: it has no length; write %s/%d for a single address"
    return (
        rule(
            "isCIDR(self)",
            "it is not a usable CIDR: write address/length, as in 10.0.0.0/16 or fd00::/48",
            says=f"isIP(self) ? {_told(lacks, 'self', 'self', width)} : {_told(write, 'self')}",
        ),
        no_host_bits(),
        rule(
            "!isCIDR(self) || cidr(self).prefixLength() > 0",
            "it is a whole address family; give a CIDR with a length of at least 1",
            says=_told("%s is a whole address family; give a CIDR with a length of at least 1", "self"),
        ),
    )


def no_host_bits() -> Schema:
    """A CIDR begins at its first address."""
    return rule(
        "!isCIDR(self) || cidr(self).masked() == cidr(self)",
        "host bits are set",
        says=_told("'%s' is not a usable CIDR: host bits are set; did you mean %s?", "self", "string(cidr(self).masked())"),
    )


def of_family(family: Family) -> Schema:
    """One CIDR of a list for one family only."""
    return rule(
        _of(family, "self"),
        f"it is not an IPv{family} CIDR",
        says=_told(f"'%s' is not a usable CIDR: it is not of IPv{family}", "self"),
    )


def disjoint(cidrs: str, at: str, *, optional: bool = False) -> Schema:
    """No CIDR of a list is given twice or lies inside another one."""
    absent = f"!has({cidrs}) || " if optional else ""
    told = _told("%s lies inside %s, another CIDR of the pool; leave one of them out", "a", "b")
    around = f"{cidrs}.map(b, cidr(b).containsCIDR(a) && !cidr(a).containsCIDR(b), {told})"
    covered = f"{cidrs}.filter(b, cidr(b).containsCIDR(a)).size()"
    return rule(
        f"{absent}!{_usable(cidrs)} || {cidrs}.all(a, {covered} == 1)",
        "the CIDRs of a pool may not overlap; leave one of them out",
        says=f"{cidrs}.map(a, {covered} > 1, ({around} + [{_told('%s is given twice', 'a')}])[0])[0]",
        at=at,
    )


def _usable(cidrs: str) -> str:
    return f"{cidrs}.all(c, isCIDR(c))"


def block_length(family: Family, cidrs: str, length: str, parent: str = "") -> tuple[Schema, ...]:
    """A block length against the CIDRs.

    Args:
        family: Of the length.
        cidrs: The list, as an expression.
        length: The field, as an expression.
        parent: The field that it is in, where that may be absent.
    """
    given = " && ".join(f"has({field})" for field in (parent, length) if field)
    return _length_rules(family, cidrs, given, length, length.removeprefix("self"))


def other_lengths(family: Family) -> tuple[Schema, ...]:
    """The block lengths for some nodes, of one family, against the CIDRs."""
    return tuple(
        each
        | {
            "rule": f"!has(self.blockLengths) || self.blockLengths.all(n, {each['rule']})",
            "messageExpression": f"self.blockLengths.map(n, !({each['rule']}), {each['messageExpression']})[0]",
        }
        for each in _length_rules(family, "self.cidrs", f"has(n.ipv{family})", f"n.ipv{family}", ".blockLengths")
    )


def _length_rules(family: Family, cidrs: str, given: str, length: str, at: str) -> tuple[Schema, ...]:
    small = f"isCIDR(c) && {_of(family, 'c')} && cidr(c).prefixLength() > {length}"
    told = _told("a /%d is larger than the CIDR %s, so not one block fits; give at least %d", length, "c", "cidr(c).prefixLength()")
    return (
        rule(
            f"!({given}) || !{cidrs}.exists(c, {small})",
            "a block is larger than a CIDR of the pool, so not one fits",
            says=f"{cidrs}.map(c, {small}, {told})[0]",
            at=at,
        ),
        rule(
            f"!({given}) || {cidrs}.exists(c, !isCIDR(c) || {_of(family, 'c')})",
            f"the pool has no IPv{family} CIDR",
            says=_told(f"/%d is given, but the pool has no IPv{family} CIDR", length),
            at=at,
        ),
    )


# --------------------------------------------------------------------------------------------------- reserved

_FIRST = "self.substring(0, self.indexOf('-')).trim()"
_LAST = "self.substring(self.indexOf('-') + 1).trim()"
_IS_RANGE = "self.contains('-')"
_ENDS = f"isIP({_FIRST}) && isIP({_LAST})"
_ONE_FAMILY = f"{_FIRST}.contains(':') == {_LAST}.contains(':')"


def reserved_rules() -> tuple[Schema, ...]:
    """Rules for one reserved address, range or CIDR."""
    told = "'%s' is neither an address (10.0.1.7) nor a range (10.0.1.10-10.0.1.20) nor a CIDR (10.0.1.0/28)"
    return (
        rule(
            f"{_IS_RANGE} ? {_ENDS} : self.contains('/') ? isCIDR(self) : isIP(self)",
            "it is neither an address nor a range nor a CIDR",
            says=_told(told, "self"),
        ),
        no_host_bits(),
        rule(
            f"!{_IS_RANGE} || !({_ENDS}) || {_ONE_FAMILY}",
            "first and last are of one family",
            says=_told("%s mixes the families: first and last are of one family", "self"),
        ),
        rule(
            f"!{_IS_RANGE} || !({_ENDS}) || !({_ONE_FAMILY}) || {_in_order(_FIRST, _LAST)}",
            "it is the wrong way round",
            says=_told("%s is the wrong way round: write %s-%s", "self", _LAST, _FIRST),
        ),
    )


def _in_order(first: str, last: str) -> str:
    """Whether an address does not come after another one, which no function says.

    They have their first n bits in common and differ in the next one, which must be 0 in the first address: then that one's prefixes of n
    and n + 1 bits begin at the same address.
    """
    shared, longer = (f"cidr({first} + '/' + {_number(length)})" for length in ("n", "n + 1"))
    width = f"({first}.contains(':') ? {WIDTH[6]} : {WIDTH[4]})"
    lengths = ", ".join(str(length + 1) for length in range(WIDTH[6]))
    common = f"[{lengths}].filter(n, n <= {width} && {shared}.containsIP({last})).size()"
    return f"[{common}].all(n, n == {width} || {shared}.masked().ip() == {longer}.masked().ip())"


def _number(value: str) -> str:
    """A number of at most three digits as text of a known length, unlike what `string` returns."""
    return "({0} > 99 ? '1' : '') + ({0} > 9 ? {1} : '') + {2}".format(
        f"({value})", *(f"'0123456789'.substring(({value}) / {unit} % 10, ({value}) / {unit} % 10 + 1)" for unit in (10, 1))
    )


def reserved_inside() -> Schema:
    """Every reserved address lies in a CIDR. What begins in one CIDR and ends in another may have a gap between; see `crds`."""
    first, last = (part.replace("self", "r") for part in (_FIRST, _LAST))
    inside = "self.cidrs.exists(c, cidr(c).containsIP({}))"
    outside = (
        f"r.contains('-') ? isIP({first}) && isIP({last}) && {first}.contains(':') == {last}.contains(':') && !({inside.format(first)} && {inside.format(last)})"
        " : r.contains('/') ? isCIDR(r) && !self.cidrs.exists(c, cidr(c).containsCIDR(r))"
        " && self.cidrs.filter(c, cidr(r).containsCIDR(c)).size() < 2"
        f" : isIP(r) && !{inside.format('r')}"
    )
    told = _told("%s is not inside the pool's CIDRs (%s)", "r", "self.cidrs.join(', ')")
    return rule(
        f"!has(self.reserved) || !{_usable('self.cidrs')} || !self.reserved.exists(r, {outside})",
        "it is not inside the pool's CIDRs",
        says=f"self.reserved.map(r, {outside}, {told})[0]",
        at=".reserved",
    )


# ---------------------------------------------------------------------------------------------- other fields


def grouping() -> Schema:
    """`groupBy` and the carving "grouped" go together."""
    return rule(
        "(has(self.carving) && self.carving == 'grouped') == (has(self.groupBy) && self.groupBy != '')",
        'it goes with carving "grouped": give both, as in topology.kubernetes.io/zone, or neither',
        at=".groupBy",
    )


def limits() -> Schema:
    """`maxBlocksPerNode` is at least what a node gets at once."""
    once = "(has(self.blocksPerNode) ? self.blocksPerNode : 1)"
    return rule(
        f"!has(self.maxBlocksPerNode) || self.maxBlocksPerNode >= {once}",
        "a node may not hold fewer blocks than it gets at once",
        says=_told("the number %d is out of range, which is %d to 65536", "self.maxBlocksPerNode", once),
        at=".maxBlocksPerNode",
    )


def subdomain(what: str) -> Schema:
    """A DNS-1123 subdomain."""
    problem = f"is not a valid {what}: {SUBDOMAIN_RULE}"
    return rule(f"self.matches('^{_SUBDOMAIN}$')", f"it {problem}", says=_told(f"'%s' {problem}", "self"))


# --------------------------------------------------------------------------------------------------- selectors

_KEY = f"^({_SUBDOMAIN}/)?{_LABEL_TEXT}$"


def _is_key(text: str) -> str:
    name = f"{text}.size() - {text}.indexOf('/') - 1"
    return f"{text}.matches('{_KEY}') && {text}.indexOf('/') <= 253 && {name} <= 63"


def label_key(*, empty: bool = False) -> Schema:
    """A label's key, on request also none."""
    problem = f"is not a label key: {_KEY_RULE}"
    return rule(
        f"self == '' || ({_is_key('self')})" if empty else _is_key("self"), f"it {problem}", says=_told(f"'%s' {problem}", "self")
    )


def label_keys() -> Schema:
    """The keys of `matchLabels`."""
    problem = f"is not a label key: {_KEY_RULE}"
    told = _told(f"the key '%s' {problem}", f"self.filter(k, !({_is_key('k')}))[0]")
    return rule(f"self.all(k, {_is_key('k')})", f"a key {problem}", says=told)


def label_value() -> Schema:
    """A label's value."""
    problem = f"is not a label value: {LABEL_TEXT_RULE}"
    return rule(f"self.matches('^({_LABEL_TEXT})?$')", f"it {problem}", says=_told(f"the value '%s' {problem}", "self"))


def value_count(*, ordered: bool) -> tuple[Schema, ...]:
    """How many values the operator of a requirement takes, and which it takes where it compares numbers."""
    count = "(has(self.values) ? self.values.size() : 0)"
    value = "self.values[0]"
    small = f"{value}.matches('^0*[0-9]{{1,18}}$')"
    large = f"{value}.matches('^0*[0-9]{{19}}$') && {value}.substring({value}.size() - 19) <= '{(1 << 63) - 1}'"
    rules = (
        ("In", "NotIn", f"{count} > 0", "%s needs at least one value", ("self.operator",)),
        ("Exists", "DoesNotExist", f"{count} == 0", "%s takes no values, found %d", ("self.operator", count)),
        ("Gt", "Lt", f"{count} == 1", "%s needs exactly one value, found %d", ("self.operator", count)),
        (
            *("Gt", "Lt", f"{count} != 1 || {small} || {large}"),
            *("%s compares with a whole number of 64 bits, found '%s'", ("self.operator", value)),
        ),
    )
    return tuple(
        rule(
            f"!(self.operator in ['{one}', '{other}']) || {holds}",
            says.replace("%s", f"{one} or {other}", 1).partition(", found")[0],
            says=_told(says, *values),
            at=".values",
        )
        for one, other, holds, says, values in rules
        if ordered or one != "Gt"
    )


def selector_form() -> tuple[Schema, ...]:
    """A selector is a LabelSelector or a list of terms, and selects something."""
    some = "(has(t.matchExpressions) && t.matchExpressions.size() > 0) || (has(t.matchFields) && t.matchFields.size() > 0)"
    return (
        rule(
            "!has(self.nodeSelectorTerms) || (!has(self.matchLabels) && !has(self.matchExpressions))",
            "matchLabels and matchExpressions cannot stand beside nodeSelectorTerms;"
            " a selector is either a LabelSelector or a list of terms",
        ),
        rule(
            "!has(self.nodeSelectorTerms) || self.nodeSelectorTerms.size() > 0",
            "it needs at least one term, as Kubernetes requires",
            at=".nodeSelectorTerms",
        ),
        rule(
            f"!has(self.nodeSelectorTerms) || self.nodeSelectorTerms.size() == 0 || self.nodeSelectorTerms.exists(t, {some})",
            "it selects nothing, so no node could use the pool; the empty selector selects every node",
        ),
    )
