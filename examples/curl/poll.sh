#!/bin/sh
# Follows bugs with nothing but curl: prints each answer that tells of a change (or of a gap), one JSON object a line.
#
#   examples/curl/poll.sh http://127.0.0.1:8844/ 1234,5678
#   examples/curl/poll.sh http://127.0.0.1:8844/ 1234,5678 poll.cursor | jq --unbuffered -c '.changes[]'
#
# The third argument is a file for the cursor: started again, it goes on where it was. Where the gateway asks for a token, it
# is in BUGFEED_TOKEN; curl gets it by a pipe, because what it is called with is shown by ps. From cron, ask once instead:
#   curl -s 'http://127.0.0.1:8844/changes?bugs=1234&cursor=THE_LAST_ONE'
set -eu

url=${1:-http://127.0.0.1:8844/}
bugs=${2:-1234}
state=${3:-}
cursor=''
if [ -n "$state" ] && [ -f "$state" ]; then
    cursor=$(cat "$state")
    # A file that has lost it is no beginning: nobody can tell what was missed.
    cursor=${cursor:-unknown}
fi

wait=1
while :; do
    # Longer than the gateway waits: without an answer by then, the connection is dead. What has no cursor is no answer of a
    # gateway, whatever its status: a proxy's page, whose cursor, none, would begin anew and lose what was missed.
    next=''
    if answer=$(printf '%s\n' "${BUGFEED_TOKEN:+Authorization: Bearer $BUGFEED_TOKEN}" |
        curl -sS --fail-with-body --max-time 40 -H @- --get --data-urlencode "bugs=$bugs" \
            ${cursor:+--data-urlencode "cursor=$cursor"} --data "wait=30" "${url%/}/changes"); then
        next=$(printf '%s\n' "$answer" | sed -n '1s/^{.*"cursor":"\([^"]*\)".*/\1/p')
    fi
    if [ -z "$next" ]; then
        first=$(printf '%s\n' "$answer" | sed -n '1p' | cut -c 1-200)
        echo "poll.sh: no answer of a gateway: $first; trying again in $wait s" >&2
        sleep "$wait"
        wait=$((wait < 16 ? wait * 2 : 30))
        continue
    fi
    wait=1
    # Deal with it here. Treat all bugs as changed where it says "replay":"gap".
    case $answer in
        *'"changes":[]'*'"replay":"gap"'*) printf '%s\n' "$answer" ;;
        *'"changes":[]'*) ;;
        *) printf '%s\n' "$answer" ;;
    esac
    # Only now, so that nothing is lost if this ends before.
    cursor=$next
    if [ -n "$state" ]; then
        printf '%s\n' "$cursor" >"$state.new"
        mv "$state.new" "$state"
    fi
done
