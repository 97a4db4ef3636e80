"""Run the scenarios over all cores. The numbers do not depend on how many there are: every part has its own seed."""

import datetime
import multiprocessing
import os
import platform
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version

import numpy as np

from experiments.launch import shielded
from sweeps.simulation.record import Cell, SimulationRecord
from sweeps.simulation.scenarios import scenarios
from sweeps.simulation.study import counts

# Studies per scenario: of the whole simulation, and of its short form.
STUDIES, SHORT = 4000, 60
# Studies that a process does at a time.
PART = 500


def cell_list(scenario, studies, sums, squares):
    """The Cells of a scenario from the sums over its studies."""
    cells = []
    for row, total, square in zip(scenario.rows, sums, squares, strict=True):
        value = float(total / studies)
        error = float(np.sqrt(max(0.0, square / studies - value**2) / studies))
        at_most, expected = scenario.at_most, scenario.expected.get(row)
        facts = {"at_most": at_most, "expected": None if expected is None else float(expected)}
        place = {"table": scenario.table, "row": row, "column": scenario.column}
        cells.append(Cell(**place, value=value, error=error, studies=studies, **facts))
    return cells


def simulate(studies=STUDIES, chosen=None, processes=None, told=lambda part: None):
    """The Cells of all scenarios, or of the `chosen`, in their order. told: called with the part (0 to 1) that is done."""
    chosen = scenarios() if chosen is None else chosen
    positions = {scenario.name: i for i, scenario in enumerate(scenarios())}
    parts = [
        (k, positions[scenario.name], number, size)
        for k, scenario in enumerate(chosen)
        for number, size in enumerate(_sizes(max(1, round(studies * scenario.share))))
    ]
    total = {k: [0, 0.0, 0.0] for k in range(len(chosen))}
    for done, (k, size, sums, squares) in enumerate(_worked(parts, processes), 1):
        total[k] = [total[k][0] + size, total[k][1] + sums, total[k][2] + squares]
        told(done / len(parts))
    return [cell for k, scenario in enumerate(chosen) for cell in cell_list(scenario, *total[k])]


def record(command, studies, processes=None, told=lambda part: None):
    """The SimulationRecord of a whole simulation."""
    from experiments.device import hardware

    started, before = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), time.monotonic()
    cells = simulate(studies, None, processes, told)
    versions = {"python": platform.python_version()} | {name: version(name) for name in ("numpy", "scipy")}
    facts = {"hardware": hardware(), "versions": versions, "started": started, "seconds": round(time.monotonic() - before, 1)}
    return SimulationRecord(schema=1, command=command, studies=studies, cells=cells, **facts)


def _sizes(studies):
    return [min(PART, studies - start) for start in range(0, studies, PART)]


def _worked(parts, processes):
    """(position in what was chosen, studies, sums, sums of squares) of every part, as they are done."""
    processes = len(os.sched_getaffinity(0)) if processes is None else processes
    if processes == 1:
        yield from map(_part, parts)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        with shielded():  # the processes start now
            waiting = [pool.submit(_part, part) for part in parts]
        try:
            for each in waiting:
                yield each.result()
        except KeyboardInterrupt:
            for process in multiprocessing.active_children():  # nothing that they do is worth waiting for
                process.kill()
            raise


_all: list = []


def _part(part):
    k, position, number, size = part
    if not _all:
        _all.extend(scenarios())
    scenario = _all[position]
    random = np.random.default_rng([zlib.crc32(scenario.name.encode()), number])
    return k, size, *counts(scenario, random, size)
