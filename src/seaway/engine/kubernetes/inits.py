"""The first process of a container: scripts for any /bin/sh. $1 is the command."""

from __future__ import annotations

INIT = """\
told=
stop() { told=1; kill -TERM -1; }
trap stop TERM INT
exec 3>&2 2>/dev/null
/bin/sh -c "$1" <"${2:-/dev/null}" 2>&3 3>&- &
pid=$!
[ -z "$told" ] || kill -TERM -1
while wait $pid; code=$?; [ $code -gt 128 ] && kill -0 $pid; do :; done
while [ -n "$told" ] && kill -0 -1; do sleep 0.1; done
exit $code
"""
"""It hands SIGTERM to every process (the kernel keeps it from a first process that has no handler for it, and a shell
in between would keep it for itself), waits until all have ended, and takes in orphans. $2 is the file that the command
reads from standard input, if there is one.
"""

STREAMED = """\
told=
stop() { told=1; kill -TERM -1; }
trap 'exit 143' TERM INT
read -r token || exit 143
trap stop TERM INT
exec 3>&2 4<&0 2>/dev/null
tell() {
  printf '\\033]seaway;%s\\007\\n' "$token"
  printf '\\033]seaway;%s\\007\\n' "$token" >&3
}
if [ -z "$2" ]; then
  {
    trap told=1 TERM INT
    (exec /bin/sh -c "$1" </dev/null 2>&3 3>&- 4<&-)
    code=$?
    [ -n "$told" ] || tell
    exit $code
  } &
else
  if [ "$(echo ab | { head -c 1 >&2; head -c 1; })" = b ]; then
    take() { head -c "$1"; }
  else
    take() { dd bs=1 count="$1"; }
  fi
  feed() {
    while read -r n; do
      case $n in
        0) exit ;;
        '' | *[!0-9]*) ;;
        *) take "$n" || exit ;;
      esac
    done
    while sleep 1000; do :; done
  }
  feed <&4 3>&- | {
    trap told=1 TERM INT
    (exec /bin/sh -c "$1" 2>&3 3>&- 4<&-)
    code=$?
    [ -n "$told" ] || tell
    cat >/dev/null
    exit $code
  } &
fi
pid=$!
[ -z "$told" ] || kill -TERM -1
while wait $pid; code=$?; [ $code -gt 128 ] && kill -0 $pid; do :; done
if [ -z "$told" ]; then
  { while read -r line && [ "$line" != over ]; do tell; done; } <&4 &
  [ -z "$told" ] || kill -TERM -1
  wait $!
fi
if [ -n "$told" ]; then
  while kill -0 -1; do sleep 0.1; done
  tell
fi
exit $code
"""
"""INIT for a command that somebody waits for. It begins when a line has come on standard input: only then is what it
writes sure to be read. With $2 it reads what comes after that in pieces: a line with the number of bytes, then these; 0
is the end. So the end of the connection, whose other side may have died, is never taken for the end of the input.

When it has ended, a mark with that first line follows its output and its errors (`attaching.make_mark`), and what it
left of its input is taken. The container ends when it is told that all has come (`over`): a runtime drops what is still
on its way a few seconds after that. Any other line is from somebody who may have missed the marks.

`head` of busybox takes more than it is asked for, what `dd` takes one by one it does not.
"""

TERMINAL = """\
trap 'exit 143' TERM
read -r go || exit 143
trap - TERM
/bin/sh -c "$1"
exit $?
"""
"""INIT for a command with a terminal. It stays in the foreground, where what is typed goes and Ctrl-C is heard; so
HANG_UP tells it to end.
"""

HANG_UP = "kill -HUP -1; kill -TERM -1; true"
"""For preStop: what happens to programs whose terminal is closed. There may be none to be told a second time."""
