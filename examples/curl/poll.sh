#!/bin/sh
# Follows bugs with nothing but curl: prints each answer that tells of a change (or of a gap), one JSON object a line.
#
#   examples/curl/poll.sh http://127.0.0.1:8844/ 1234,5678
#   examples/curl/poll.sh http://127.0.0.1:8844/ 1234,5678 poll.cursor | jq --unbuffered -c '.changes[]'
#
# The third argument is a file for the cursor: started again, it goes on where it was. From cron, ask once instead:
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

while :; do
    # Longer than the gateway waits: without an answer by then, the connection is dead.
    if ! answer=$(curl -sS --fail-with-body --max-time 40 --get --data-urlencode "bugs=$bugs" \
        ${cursor:+--data-urlencode "cursor=$cursor"} --data "wait=30" "${url%/}/changes"); then
        echo "poll.sh: $answer; trying again" >&2
        sleep 2
        continue
    fi
    # Deal with it here. Treat all bugs as changed where it says "replay":"gap".
    case $answer in
        *'"changes":[]'*'"replay":"gap"'*) printf '%s\n' "$answer" ;;
        *'"changes":[]'*) ;;
        *) printf '%s\n' "$answer" ;;
    esac
    # Only now, so that nothing is lost if this ends before.
    cursor=$(printf '%s' "$answer" | sed -n 's/.*"cursor":"\([^"]*\)".*/\1/p')
    if [ -n "$state" ]; then
        printf '%s\n' "$cursor" >"$state.new"
        mv "$state.new" "$state"
    fi
done
