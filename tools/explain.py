"""Run a command on make's PROMPT, given whole: `make_pid=… PROMPT_FROM_MAKE=… explain.py COMMAND [OPTION…]`.

make drops the blanks at the start of a value on its command line (`make explain PROMPT=" she may l"`),
so they are read there again: from /proc, or from ps where there is none."""
import os, re, subprocess, sys
from pathlib import Path

def command_line(
    pid:str # of the running make
)->str: # its arguments, with one space or null character between them
    try: return os.fsdecode(Path(f'/proc/{pid}/cmdline').read_bytes())
    except OSError: pass # no such folder, or not for everybody
    asked = ['ps', '-ww', '-o', 'args=', '-p', pid]
    try: return os.fsdecode(subprocess.run(asked, capture_output=True).stdout)
    except OSError: return ''

def whole(
    value:str, # of PROMPT, as make has it
    line:str # make's command line
)->str: # the same with the blanks that stood before it
    found = re.findall(rf'[\0\s]PROMPT=(\s*){re.escape(value)}(?=[\0\s]|$)', line)
    return found[-1] + value if found else value

if __name__ == '__main__':
    prompt = whole(os.environ['PROMPT_FROM_MAKE'], command_line(os.environ['make_pid']))
    os.execv(sys.argv[1], [*sys.argv[1:], '--', prompt])
