"""The scripts that complete, one for each shell, made from what the parsers take.

Bash and zsh get a table of the words as ``case`` statements and one function that
walks the line; fish gets a line for each option, as its own completions are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Final

from . import COMMANDS, HIDDEN, WITH_PROGRAM, whole_parser
from .command_words import CommandWords, Operand, Option, Value, commands_of, words_of
from .states import STATE_STYLES

STATES: Final = (*STATE_STYLES, "unfinished", "finished")
# What is asked of the daemon; the name is the option of ``completion`` that asks it.
ASKED: Final = frozenset({"agents", "kinds"})


@cache
def script(shell: str) -> str:
    """Return the completion for *shell*."""
    parser = whole_parser()
    everywhere = words_of(parser, "")
    commands = [one for one in commands_of(parser) if one.name not in HIDDEN]
    lines = {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](everywhere, commands)
    return "".join(f"{line}\n" for line in lines)


def _wanted(value: Value, *, flag: str = "") -> str:
    """Return what stands for *value*: the words themselves, or the name of a way to find them."""
    if value.choices:
        return " ".join(value.choices)
    if value.is_file:
        return "@files"
    if value.name == "AGENT":
        return "@agents"
    return {"--kind": "@kinds", "--state": "@states"}.get(flag, "@nothing")


# --- bash ----------------------------------------------------------------------------

_BASH: Final = r"""
_agent_journal() {
    local line=${COMP_LINE:0:COMP_POINT} words word cur command="" wanted="" place=0 socket=""
    # Bash cuts words at ":" and "=", which agents' ids and long options have in them.
    read -ra words <<<"$line"
    cur=""
    if [[ $line != *[[:space:]] ]]; then
        cur=${words[-1]}
        unset "words[-1]"
    fi
    for word in "${words[@]:1}"; do
        if [[ -n $wanted ]]; then
            [[ $wanted == @socket ]] && socket=$word
            wanted=""
            continue
        fi
        case $word in
            --) if [[ $command == @(%(programs)s) ]]; then
                    mapfile -t COMPREPLY < <(compgen -c -- "$cur")
                    return
                fi ;;
            -*=*) ;;
            -*) _agent_journal_value "$command" "$word" ;;
            *) if [[ -z $command ]]; then command=$word; else place=$((place + 1)); fi ;;
        esac
    done
    if [[ -z $wanted && $cur == --*=* ]]; then
        _agent_journal_value "$command" "${cur%%%%=*}"
        cur=${cur#*=}
    elif [[ -z $wanted && $cur == -* ]]; then
        _agent_journal_options "$command"
    elif [[ -z $wanted && -z $command ]]; then
        wanted="%(commands)s"
    elif [[ -z $wanted ]]; then
        _agent_journal_operand "$command" "$place"
    fi
    local before=""
    COMPREPLY=()
    case $wanted in
        "" | @nothing) ;;
        @files | @socket)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            compopt -o filenames 2>/dev/null ;;
        @agents | @kinds)
            mapfile -t COMPREPLY < <(
                "${1/#\~\//$HOME/}" completion ${socket:+-s "$socket"} \
                    "--${wanted#@}" "$cur" 2>/dev/null
            ) ;;
        *)
            if [[ $wanted == @states ]]; then
                wanted="%(states)s"
                [[ $cur == *,* ]] && before=${cur%%,*},
            fi
            mapfile -t COMPREPLY < <(compgen -P "$before" -W "$wanted" -- "${cur##*,}") ;;
    esac
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        before=${cur%%"${cur##*:}"}
        COMPREPLY=("${COMPREPLY[@]#"$before"}")
    fi
}
complete -F _agent_journal agent-journal
"""


def _bash(everywhere: CommandWords, commands: list[CommandWords]) -> Iterator[str]:
    yield "# Completion for agent-journal in bash, made by: agent-journal completion bash"
    yield from _tables([everywhere, *commands])
    values = {
        "programs": "|".join(sorted(WITH_PROGRAM)),
        "commands": " ".join(one.name for one in commands),
        "states": " ".join(STATES),
    }
    yield (_BASH % values).strip("\n")


def _tables(commands: list[CommandWords]) -> Iterator[str]:
    """Yield three functions that set ``wanted``: options, an option's value, an operand."""
    yield "_agent_journal_options() {"
    yield "    case $1 in"
    for command in commands:
        flags = " ".join(flag for option in command.options for flag in option.flags)
        name = command.name or '""'
        yield f"        {name}) wanted='{flags}' ;;"
    yield "    esac"
    yield "}"
    yield "_agent_journal_value() {"
    yield "    case $1:$2 in"
    yield from _cases(_valued(commands))
    yield "    esac"
    yield "}"
    yield "_agent_journal_operand() {"
    yield "    case $1:$2 in"
    for command in commands[1:]:
        yield from _cases(_operands(command))
    yield "    esac"
    yield "}"


def _cases(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield from (f"        {pattern}) wanted='{wanted}' ;;" for pattern, wanted in pairs)


def _valued(commands: list[CommandWords]) -> Iterator[tuple[str, str]]:
    for command in commands:
        for option in command.options:
            if option.value is not None:
                wanted = _wanted(option.value, flag=option.flags[-1])
                wanted = "@socket" if "--socket" in option.flags else wanted
                yield "|".join(f"{command.name}:{flag}" for flag in option.flags), wanted


def _operands(command: CommandWords) -> Iterator[tuple[str, str]]:
    for place, operand in enumerate(command.operands):
        pattern = "*" if operand.value.is_repeated else place
        yield f"{command.name}:{pattern}", _wanted(operand.value)


# --- zsh -----------------------------------------------------------------------------

_ZSH: Final = r"""
_agent_journal_asked() {
    local -a found
    found=(${(f)"$(_call_program $1 ${(q)words[1]} completion ${socket:+-s ${(q)socket}} \
        --$1 ${(q)PREFIX} 2>/dev/null)"})
    compadd -a found
}
_agent_journal() {
    local curcontext=$curcontext context state state_descr line
    typeset -A opt_args
    local socket
    local -a commands
    _arguments -C \
%(everywhere)s
        '1:command:->command' '*::argument:->argument'
    socket=${opt_args[-s]:-${opt_args[--socket]}}
    case $state in
        command)
            commands=(
%(commands)s
            )
            _describe command commands ;;
        argument)
            case $line[1] in
%(cases)s
            esac ;;
    esac
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _agent_journal "$@"
else
    compdef _agent_journal agent-journal
fi
"""


def _zsh(everywhere: CommandWords, commands: list[CommandWords]) -> Iterator[str]:
    yield "#compdef agent-journal"
    yield "# Completion for agent-journal in zsh, made by: agent-journal completion zsh"
    values = {
        "everywhere": "\n".join(f"        {one} \\" for one in _zsh_options(everywhere)),
        "commands": "\n".join(
            f"                {_single(f'{one.name}:{COMMANDS[one.name]}')}" for one in commands
        ),
        "cases": "\n".join(_zsh_case(one) for one in commands),
    }
    yield (_ZSH % values).strip("\n")


def _zsh_case(command: CommandWords) -> str:
    specs = [*_zsh_options(command), *_zsh_operands(command)]
    joined = " \\\n                        ".join(specs)
    return f"                {command.name})\n                    _arguments {joined} ;;"


def _zsh_options(command: CommandWords) -> Iterator[str]:
    for option in command.options:
        said = f"[{_zsh_text(option.help)}]{_zsh_value(option)}"
        # Whoever wrote one way of an option needs no other.
        others = f"({' '.join(option.flags)})" if len(option.flags) > 1 else ""
        for flag in option.flags:
            joint = "" if option.value is None else "=" if flag.startswith("--") else "+"
            yield _single(f"{others}{flag}{joint}{said}")


def _zsh_value(option: Option) -> str:
    if option.value is None:
        return ""
    wanted = _wanted(option.value, flag=option.flags[-1])
    return f":{option.value.name}:{_zsh_action(wanted)}"


def _zsh_operands(command: CommandWords) -> Iterator[str]:
    for place, operand in enumerate(command.operands, start=1):
        at = "*" if operand.value.is_repeated else f"{place}"
        action = _zsh_action(_wanted(operand.value))
        yield _single(f"{at}:{_zsh_text(operand.value.name)}:{action}")
    if command.name in WITH_PROGRAM and not any(one.value.is_repeated for one in command.operands):
        yield _single("*::program:_normal")


def _zsh_action(wanted: str) -> str:
    match wanted:
        case "@files":
            return "_files"
        case "@agents" | "@kinds":
            return f"_agent_journal_asked {wanted[1:]}"
        case "@states":
            return f"_sequence compadd - {' '.join(STATES)}"
        case "@nothing":
            return " "
        case words:
            return f"({words})"


def _zsh_text(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\[]:" else c for c in text)


def _single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish ----------------------------------------------------------------------------

_FISH: Final = r"""
function __agent_journal_asked
    set -l words (commandline -opc)
    set -l socket
    for at in (seq (count $words))
        if contains -- $words[$at] -s --socket
            set socket -s $words[(math $at + 1)]
        end
    end
    $words[1] completion $socket $argv[1] (commandline -ct) 2>/dev/null
end
function __agent_journal_program
    contains -- -- (commandline -opc)
end
complete -c agent-journal -f
"""


def _fish(everywhere: CommandWords, commands: list[CommandWords]) -> Iterator[str]:
    yield "# Completion for agent-journal in fish, made by: agent-journal completion fish"
    yield _FISH.strip("\n")
    none_yet = f"not __fish_seen_subcommand_from {' '.join(one.name for one in commands)}"
    for option in everywhere.options:
        yield _fish_option(none_yet, option)
    for command in commands:
        yield _fish_line(none_yet, "-a", command.name, "-d", _fish_text(COMMANDS[command.name]))
    for command in commands:
        here = f"__fish_seen_subcommand_from {command.name}"
        if command.name in WITH_PROGRAM:
            yield _fish_line("__agent_journal_program", "-a", "'(__fish_complete_subcommand)'")
            here = f"{here}; and not __agent_journal_program"
        for option in command.options:
            yield _fish_option(here, option)
        yield from _fish_operands(here, command.operands)


def _fish_option(condition: str, option: Option) -> str:
    words = []
    for flag in option.flags:
        words += ["-l", flag[2:]] if flag.startswith("--") else ["-s", flag[1:]]
    if option.value is not None:
        wanted = _wanted(option.value, flag=option.flags[-1])
        words += ["-r", "-F"] if wanted == "@files" else ["-x"]
        words += ["-a", action] if (action := _fish_action(wanted)) else []
    return _fish_line(condition, *words, "-d", _fish_text(option.help))


def _fish_operands(condition: str, operands: tuple[Operand, ...]) -> Iterator[str]:
    for operand in operands:
        wanted = _wanted(operand.value)
        if wanted == "@files":
            yield _fish_line(condition, "-F")
        elif action := _fish_action(wanted):
            yield _fish_line(condition, "-a", action)


def _fish_action(wanted: str) -> str:
    match wanted:
        case "@agents" | "@kinds":
            return f"'(__agent_journal_asked --{wanted[1:]})'"
        case "@states":
            return _fish_text(" ".join(STATES))
        case "@files" | "@nothing":
            return ""
        case words:
            return _fish_text(words)


def _fish_line(condition: str, *words: str) -> str:
    return f"complete -c agent-journal -n {_fish_text(condition)} {' '.join(words)}"


def _fish_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
