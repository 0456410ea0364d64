#!/bin/sh
# Journals an agent's start, a step and its end, and reads them back: a shell and nc, nothing else.
#
#   ./append.sh [agent-id]          needs the nc that knows -U and -N (netcat-openbsd)
set -eu

agent=${1:-shell-$(date +%s)-$$}

# Where the daemon listens: what the environment says, else the user's own, else the host's.
find_socket() {
    own=/tmp/agent-journal-$(id -u)
    if [ -n "${AGENT_JOURNAL_SOCKET:-}" ]; then
        echo "$AGENT_JOURNAL_SOCKET"
    elif [ -S "${XDG_RUNTIME_DIR:-/nonexistent}/agent-journal/journal.sock" ]; then
        echo "$XDG_RUNTIME_DIR/agent-journal/journal.sock"
    elif [ -z "${XDG_RUNTIME_DIR:-}" ] && [ -O "$own" ] && [ -S "$own/journal.sock" ]; then
        echo "$own/journal.sock" # -O: in /tmp anybody may have made it
    else
        echo /run/agent-journal/journal.sock
    fi
}

# One object a line. With a key, a repeat is recognised: run this twice with one agent-id and see.
requests() {
    cat <<END
{"id":1,"op":"append","agent_id":"$agent","event":{"Started":{"goal":"greet"}},"key":"start"}
{"id":2,"op":"append","agent_id":"$agent","iteration":1,"event":{"StepCompleted":{"result":"Hello!"}},"key":"greet"}
{"id":3,"op":"append","agent_id":"$agent","iteration":1,"event":{"Terminated":{"reason":"Completed"}},"key":"end"}
{"id":4,"op":"read","agent_id":"$agent"}
END
}

# Replies come in the order of the requests, each append's when it is durable.
answered=0
replies=$(requests | nc -U -N "$(find_socket)") || true
while IFS= read -r reply; do
    case $reply in
        '{"id":'[1-4]',"ok":true,'*) answered=$((answered + 1)) && printf '%s\n' "$reply" ;;
        *) printf '%s\n' "${reply:-no answer; is agent-journald running?}" >&2 && exit 1 ;;
    esac
done <<END
$replies
END
[ "$answered" -eq 4 ] || { echo "only $answered of 4 requests were answered" >&2 && exit 1; }
