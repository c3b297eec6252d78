"""Reads what callgrind collected for each phase of the bench `instructions`, and compares it with the bounds. Called by scripts/instructions."""

import re
import sys
import tomllib
from collections import defaultdict

# What the AEAD's library exports has this prefix; what those call (static functions, assembly) belongs to it as well.
AEAD = re.compile(r"^aws_lc_\d+_\d+_\d+_")
COPY = re.compile(r"^_*mem(cpy|move|mmove)\b|^__mem(cpy|move)_")
TOLERANCE = 1.10


def read(path):
    """Self costs by (function, file), and inclusive costs by (caller, callee)."""
    selfs, edges = defaultdict(int), defaultdict(int)
    function = file = callee = None
    called = False
    for line in open(path, encoding="utf-8"):
        line = line.rstrip("\n")
        key, _, value = line.partition("=")
        if key == "fn":
            function = value
        elif key in ("fl", "fi", "fe"):
            file = value
        elif key == "cfn":
            callee = value
        elif key == "calls":
            called = True
        elif line and line[0].isdigit():
            cost = int(line.split()[1])
            if called:
                edges[function, callee] += cost
                called = False
            else:
                selfs[function, file] += cost
    return selfs, edges


def figures(selfs, edges, packets):
    """Instructions per packet: all, in the AEAD, outside of it, and in copies outside of it."""
    inside = {name for name, _ in selfs if AEAD.match(name)}
    callees = defaultdict(set)
    for caller, callee in edges:
        callees[caller].add(callee)
    waiting = list(inside)
    while waiting:
        for callee in callees[waiting.pop()]:
            if callee not in inside and not COPY.match(callee):
                inside.add(callee)
                waiting.append(callee)
    total = sum(selfs.values())
    aead = sum(cost for (caller, callee), cost in edges.items() if callee in inside and caller not in inside)
    copies = sum(cost for (caller, callee), cost in edges.items() if COPY.match(callee) and caller not in inside and not COPY.match(caller))
    return inside, {"all": total / packets, "aead": aead / packets, "outside": (total - aead) / packets, "copies": copies / packets}


def top(selfs, inside, packets, count):
    """The places that cost most; what the AEAD does is left out."""
    by_function, by_file = defaultdict(int), defaultdict(lambda: defaultdict(int))
    for (function, file), cost in selfs.items():
        if function not in inside:
            by_function[function] += cost
            by_file[function][file] += cost
    for function, cost in sorted(by_function.items(), key=lambda item: -item[1])[:count]:
        print(f"{cost / packets:8.1f}  {function}")
        for file, part in sorted(by_file[function].items(), key=lambda item: -item[1])[:6]:
            print(f"          {part / packets:8.1f}  {re.sub('.*/(library|src/index[^/]*)/', '', file)}")


def main():
    folder, bounds_path, *arguments = sys.argv[1:]
    bounds = tomllib.load(open(bounds_path, "rb"))
    phases = [line.split() for line in open(f"{folder}/phases", encoding="utf-8")]
    measured, worse = {}, []
    if arguments[:1] != ["--top"]:
        print(f"{'instructions per packet':<24}{'all':>9}{'AEAD':>9}{'outside':>9}{'bound':>9}{'of it copies':>14}")
    for number, (name, packets) in enumerate(phases, 1):
        selfs, edges = read(f"{folder}/phase.{number}")
        inside, figure = figures(selfs, edges, int(packets))
        if arguments[:1] == ["--top"]:
            if name == arguments[2]:
                top(selfs, inside, int(packets), int(arguments[1]))
            continue
        measured[name] = round(figure["outside"], 1)
        bound = bounds.get(name, 0.0)
        print(f"{name:<24}{figure['all']:9.1f}{figure['aead']:9.1f}{figure['outside']:9.1f}{bound:9.1f}{figure['copies']:14.1f}")
        if figure["outside"] > bound * TOLERANCE:
            worse.append(name)
    if arguments == ["--update"]:
        with open(bounds_path, "w", encoding="utf-8") as out:
            out.write("# Instructions per packet outside of the AEAD, without system calls. scripts/instructions fails 10 % above them;\n")
            out.write("# `scripts/instructions --update` after a change that is worth more than it costs, or that made them fewer.\n")
            out.writelines(f"{name} = {value}\n" for name, value in measured.items())
    elif worse:
        sys.exit(f"more than 10 % above the bound: {', '.join(worse)}")


main()
