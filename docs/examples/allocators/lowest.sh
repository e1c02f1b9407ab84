#!/usr/bin/env bash
# An allocator in a shell: IPv4, lowest first, kept in a file. It speaks the JSON lines of `ciliumipam torture`.
kept=$(mktemp)
trap 'rm -f "$kept"' EXIT
declare -A holder # of an address, by its last number

field() { # name: the text of that field of the request
  [[ $request =~ \"$1\":\ *\"([^\"]*)\" ]] && printf '%s' "${BASH_REMATCH[1]}"
}

load() {
  holder=()
  while read -r number owner; do holder[$number]=$owner; done <"$kept"
}

save() {
  for number in "${!holder[@]}"; do echo "$number ${holder[$number]}"; done >"$kept"
}

find_holding() { # owner: sets `found` to its number, or to nothing
  for found in "${!holder[@]}"; do
    [ "${holder[$found]}" = "$1" ] && return
  done
  found=
}

while IFS= read -r request; do
  owner=$(field owner)
  case $(field do) in
  hello)
    echo '{"protocol": 1, "name": "lowest.sh", "claims": {"again": "same", "restarts": true, "families": [4]}}'
    ;;
  open)
    network=$(field network) length=${network#*/} address=${network%/*}
    : >"$kept"
    holder=() stem=${address%.*} first=$((${address##*.} + 1)) last=$((${address##*.} + (1 << (32 - length)) - 2))
    if [ "$length" -lt 24 ] || [ "$length" -gt 30 ]; then
      echo '{"refused": "only /24 to /30"}'
    else
      echo "{\"offer\": [[\"$stem.$first\", \"$stem.$last\"]]}"
    fi
    ;;
  allocate)
    find_holding "$owner"
    for ((number = first; number <= last; number++)); do
      [ -n "$found" ] || [ -n "${holder[$number]}" ] || found=$number
    done
    if [ -n "$found" ]; then
      holder[$found]=$owner
      save
      echo "{\"address\": \"$stem.$found\"}"
    else
      echo '{"exhausted": "all held"}'
    fi
    ;;
  release)
    find_holding "$owner"
    [ -z "$found" ] || unset "holder[$found]"
    save
    echo '{"done": true}'
    ;;
  restart)
    load
    echo '{"done": true}'
    ;;
  esac
done
