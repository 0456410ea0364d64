#!/bin/bash
# Journals an agent's start, a step and its end, each sent when the one before is durable.
#
#   ./append-socat.sh [agent-id]    needs bash (for coproc) and socat
set -euo pipefail

agent=${1:-socat-$(date +%s)-$$}

# Where the daemon listens: what the environment says, else the user's own, else the host's.
find_socket() {
    local own=/tmp/agent-journal-$UID
    if [[ -n ${AGENT_JOURNAL_SOCKET:-} ]]; then
        echo "$AGENT_JOURNAL_SOCKET"
    elif [[ -S ${XDG_RUNTIME_DIR:-/nonexistent}/agent-journal/journal.sock ]]; then
        echo "$XDG_RUNTIME_DIR/agent-journal/journal.sock"
    elif [[ -z ${XDG_RUNTIME_DIR:-} && -O $own && -S $own/journal.sock ]]; then
        echo "$own/journal.sock" # -O: in /tmp anybody may have made it
    else
        echo /run/agent-journal/journal.sock
    fi
}

# Sends one request and prints its reply; ends the script when the answer is not yes.
call() {
    local reply=
    printf '%s\n' "$1" >&"$to"
    IFS= read -r reply <&"$from" || true
    if [[ $reply != *'"ok":true'* ]]; then
        echo "${reply:-no answer; is agent-journald running?}" >&2
        exit 1
    fi
    printf '%s\n' "$reply"
}

trap '' PIPE # a daemon that is not there is told of by the missing answer
coproc SOCAT { exec socat - "UNIX-CONNECT:$(find_socket)"; }
# Copies: bash takes the coprocess' own descriptors away when it ends.
exec {from}<&"${SOCAT[0]}" {to}>&"${SOCAT[1]}"

append='"op":"append","agent_id":"'$agent'"'
call "{$append,\"event\":{\"Started\":{\"goal\":\"greet\"}},\"key\":\"start\"}"
call "{$append,\"iteration\":1,\"event\":{\"StepCompleted\":{\"result\":\"Hello!\"}},\"key\":\"greet\"}"
call "{$append,\"iteration\":1,\"event\":{\"Terminated\":{\"reason\":\"Completed\"}},\"key\":\"end\"}"
call "{\"op\":\"read\",\"agent_id\":\"$agent\"}"
