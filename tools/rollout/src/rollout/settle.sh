# Types keys into a tmux pane and waits until the pane settles; prints a status line, then history and visible screen.
# Arguments: session, process id of the pane's shell, its terminal, least and greatest wait in milliseconds, then chunks
# of keys. With the variable `first` set, the first prompt is waited for.
# Status line: `gone` (the session ended), `busy` (a command still runs) or `idle`.
session=$1 shell=$2 terminal=$3 least=$4 greatest=$5
shift 5
separator='----- visible screen 7d1f -----'
gone=0 busy=0 screen=x

now() { ms=$((${EPOCHREALTIME/[.,]/} / 1000)); }

# Sets leader (the foreground process), mark (which changes whenever it has run) and waits (1: it waits for the terminal).
look() {
  local line channel='' ran=''
  waits=0 mark='' leader=0
  { read -r line </proc/$shell/stat; } 2>/dev/null || return 1
  set -- ${line##*) }
  leader=$6
  [[ $1 != Z ]] || return 1
  { read -r line </proc/$leader/stat; } 2>/dev/null || return 0
  set -- ${line##*) }
  { read -r ran _ </proc/$leader/schedstat; } 2>/dev/null
  { read -r channel </proc/$leader/wchan; } 2>/dev/null
  mark=$leader:$ran
  [[ $1 == S ]] || return 0
  case $channel in
    poll_schedule_timeout* | do_select* | do_poll* | n_tty_read* | wait_woken*) waits=1 ;;
    '' | 0) [[ $leader != "$shell" ]] || waits=1 ;; # the kernel hides where processes sleep
  esac
}

capture() {
  screen=$(
    tmux display-message -p -t "$session" '#{pane_title}' \; capture-pane -p -S - -t "$session" \; \
      display-message -p -- "$separator" \; capture-pane -p -t "$session" 2>/dev/null
    echo x
  )
  title=${screen%%$'\n'*}
  screen=${screen#*$'\n'}
}

# Sets the pane's title through the terminal: once tmux knows the title, it has read all that was written before it.
stamp() { { printf '\033]2;%s\033\\' "$1" >"$terminal"; } 2>/dev/null; }

# settle MARK LEAST CAPTURE: MARK is the mark before keys were sent, empty when none were.
settle() {
  local start pause=.002 stamped=''
  now
  start=$ms
  while :; do
    look || { gone=1; return; }
    now
    if ((ms >= deadline)); then busy=1; return; fi
    # Keys take a moment to arrive. Having run since then shows that they did; 300 ms stand in where nothing shows it.
    if ((waits)) && [[ $leader == "$shell" || $((ms - start)) -ge $2 ]] &&
      [[ -z $1 || (-n ${mark#*:} && $mark != "$1") || $((ms - start)) -ge 300 ]]; then
      [[ $3 ]] || return
      if [[ $stamped != "$mark" ]]; then
        stamped=$mark
        stamp "$stamped $start"
      fi
      capture
      if [[ $title == "$stamped $start" ]]; then
        look || { gone=1; return; }
        # A shell may also sleep before its first prompt.
        if [[ $mark == "$stamped" && (! $first || ${screen#*"$separator"} == *[![:space:]]*x) ]]; then return; fi
        sleep .01
      fi
    else
      sleep $pause
      case $pause in .002) pause=.004 ;; .004) pause=.01 ;; .01) pause=.02 ;; .02) pause=.05 ;; esac
    fi
  done
}

now
deadline=$((ms + greatest))
literal=
[[ $# -le 1 ]] || literal=-l
if (($# == 0)); then settle '' "$least" capture; fi
while (($#)) && ! ((gone)); do
  look || { gone=1; break; }
  before=$mark
  tmux send-keys -t "$session" $literal -- "$1" 2>/dev/null || { gone=1; break; }
  shift
  if (($#)); then settle "$before" 0 ''; else settle "$before" "$least" capture; fi
done
if ((gone)); then
  echo gone
else
  if ((busy)); then echo busy; else echo idle; fi
  if ((busy)); then capture; fi
  printf %s "${screen%x}"
fi
